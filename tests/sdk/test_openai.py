"""The gateway as OpenAI's SDK for Python sees it."""

import json
import time
import unittest

import openai
from openai import OpenAI
from pydantic import BaseModel

from gateway import URL, new_key

MESSAGES = [{"role": "user", "content": "Hello!"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}}}]


def client(**key):
    return OpenAI(api_key=new_key(**key), base_url=f"{URL}/v1", max_retries=0)


def ask(of, model="openai/gpt-4o", **members):
    return of.chat.completions.create(model=model, messages=MESSAGES, **members)


class Completions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = client()

    def test_a_whole_completion(self):
        completion = ask(self.client)
        self.assertEqual(completion.choices[0].message.content, "Hello from the provider!")
        self.assertEqual(completion.usage.total_tokens, 21)
        self.assertTrue(completion._request_id.startswith("req_"))

    def test_a_stream_and_its_end(self):
        chunks = list(ask(self.client, stream=True))
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "Hello from the provider!")
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")

    def test_usage_is_streamed_to_those_who_asked(self):
        without = list(ask(self.client, stream=True))
        self.assertTrue(all(chunk.usage is None and chunk.choices for chunk in without))
        chunks = list(ask(self.client, stream=True, stream_options={"include_usage": True}))
        self.assertEqual([chunk.usage.total_tokens for chunk in chunks if chunk.usage], [21])
        self.assertEqual(chunks[-1].choices, [])

    def test_tools(self):
        calls = ask(self.client, tools=TOOLS).choices[0].message.tool_calls
        self.assertEqual([json.loads(call.function.arguments)["city"] for call in calls], ["Paris", "Rome"])

    def test_streamed_tools_are_put_together_by_the_sdk(self):
        strict = json.loads(json.dumps(TOOLS))
        strict[0]["function"]["strict"] = True
        with self.client.chat.completions.stream(model="openai/gpt-4o", messages=MESSAGES, tools=strict) as stream:
            message = stream.get_final_completion().choices[0].message
        self.assertEqual([call.id for call in message.tool_calls], ["call_0", "call_1"])
        self.assertEqual([call.function.parsed_arguments for call in message.tool_calls], [{"city": "Paris"}, {"city": "Rome"}])

    def test_structured_output(self):
        class Weather(BaseModel):
            city: str
            temperature: int

        completion = self.client.chat.completions.parse(model="openai/gpt-4o", messages=MESSAGES, response_format=Weather)
        self.assertEqual(completion.choices[0].message.parsed, Weather(city="Paris", temperature=21))

    def test_several_choices_and_log_probabilities(self):
        completion = ask(self.client, n=2, logprobs=True)
        self.assertEqual([choice.index for choice in completion.choices], [0, 1])
        self.assertEqual(completion.choices[0].logprobs.content[0].logprob, -0.5)
        chunks = list(ask(self.client, n=2, logprobs=True, stream=True))
        for index in range(2):
            own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
            self.assertEqual("".join(choice.delta.content or "" for choice in own), "Hello from the provider!")
            self.assertEqual(own[-2].logprobs.content[0].token, "Hi")

    def test_unknown_members_and_large_numbers_reach_the_provider(self):
        extra = {"top_k": 5, "seed": 9007199254740993123, "x_nested": {"a": [1.0, None]}}
        sent = json.loads(ask(self.client, "openai/mirror", extra_body=extra).choices[0].message.content)
        self.assertEqual({name: sent[name] for name in extra}, extra)
        self.assertEqual(sent["model"], "mirror")

    def test_audio(self):
        audio = ask(self.client, modalities=["text", "audio"], audio={"voice": "nova", "format": "wav"}).choices[0].message.audio
        self.assertEqual((audio.data, audio.transcript), ("UklGRg==", "hi"))

    def test_a_stream_that_breaks_off_raises(self):
        with self.assertRaises(openai.APIError):
            list(ask(self.client, "openai/cut", stream=True))

    def test_a_stream_that_is_left_can_be_left(self):
        with ask(self.client, stream=True) as stream:
            next(iter(stream))
        self.assertEqual(ask(self.client).choices[0].finish_reason, "stop")


class Others(unittest.TestCase):
    def test_models(self):
        models = list(client().models.list())
        self.assertIn("local/echo", [model.id for model in models])
        self.assertEqual(client().models.retrieve("Provider-8/llama-4-maverick:free").object, "model")

    def test_images(self):
        images = client().images.generate(model="openai/gpt-image-1", prompt="a cat", n=2)
        self.assertEqual([image.b64_json for image in images.data], ["iVBORw=="] * 2)


class Errors(unittest.TestCase):
    def fails(self, kind, status, call):
        with self.assertRaises(kind) as raised:
            call()
        error = raised.exception
        self.assertEqual(error.status_code, status)
        self.assertTrue(error.request_id.startswith("req_"))
        return error

    def test_ours(self):
        one = client()
        error = self.fails(openai.BadRequestError, 400, lambda: ask(one, temperature=1, n=0))
        self.assertEqual((error.param, error.type), ("n", "invalid_request_error"))
        error = self.fails(openai.NotFoundError, 404, lambda: ask(one, "no-such-model"))
        self.assertEqual((error.param, error.code), ("model", "model_not_found"))
        wrong = OpenAI(api_key="sk-a4f-wrong", base_url=f"{URL}/v1", max_retries=0)
        error = self.fails(openai.AuthenticationError, 401, lambda: ask(wrong))
        self.assertEqual(error.code, "invalid_api_key")
        error = self.fails(openai.PermissionDeniedError, 403, lambda: ask(client(models=["local/*"])))
        self.assertEqual(error.code, "model_not_allowed")
        limited = client(limits={"requests_per_minute": 1})
        ask(limited)
        error = self.fails(openai.RateLimitError, 429, lambda: ask(limited))
        self.assertEqual(error.code, "rate_limit_exceeded")
        self.assertTrue(1 <= int(error.response.headers["retry-after"]) <= 61)

    def test_the_providers(self):
        one = client()
        for theirs, ours, kind in [
            (400, 400, openai.BadRequestError),
            (404, 404, openai.NotFoundError),
            (422, 400, openai.BadRequestError),
            (429, 429, openai.RateLimitError),
            (401, 502, openai.InternalServerError),
            (403, 502, openai.InternalServerError),
            (500, 502, openai.InternalServerError),
            (503, 502, openai.InternalServerError),
            (529, 503, openai.InternalServerError),
        ]:
            for stream in (False, True):
                with self.subTest(theirs=theirs, stream=stream):
                    error = self.fails(kind, ours, lambda: ask(one, f"openai/status-{theirs}", stream=stream))
                    if theirs in (400, 404, 422):
                        self.assertEqual((error.code, error.param), ("a_code", "messages"))
                        self.assertIn("the provider's words", error.message)
                    if theirs == 429:
                        self.assertEqual(error.response.headers["retry-after"], "7")

    def test_a_request_that_can_never_fit_is_not_a_matter_of_patience(self):
        patient = OpenAI(api_key=new_key(limits={"tokens_per_minute": 10}), base_url=f"{URL}/v1", max_retries=5)
        started = time.monotonic()
        self.fails(openai.BadRequestError, 400, lambda: ask(patient))
        self.assertLess(time.monotonic() - started, 2)


if __name__ == "__main__":
    unittest.main()
