"""The gateway as LangChain sees it."""

import unittest

from langchain_openai import ChatOpenAI

from gateway import URL, new_key


class LangChain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = ChatOpenAI(model="openai/gpt-4o", api_key=new_key(), base_url=f"{URL}/v1", max_retries=0, stream_usage=True)

    def test_a_whole_answer(self):
        answer = self.model.invoke("Hello!")
        self.assertEqual((answer.content, answer.usage_metadata["total_tokens"]), ("Hello from the provider!", 21))

    def test_a_stream_with_usage(self):
        whole = None
        for chunk in self.model.stream("Hello!"):
            whole = chunk if whole is None else whole + chunk
        self.assertEqual((whole.content, whole.usage_metadata["total_tokens"]), ("Hello from the provider!", 21))

    def test_streamed_tool_calls(self):
        def weather(city: str) -> str:
            """The weather in a city."""
            return city

        whole = None
        for chunk in self.model.bind_tools([weather]).stream("Hello!"):
            whole = chunk if whole is None else whole + chunk
        self.assertEqual([call["args"] for call in whole.tool_calls], [{"city": "Paris"}, {"city": "Rome"}])


if __name__ == "__main__":
    unittest.main()
