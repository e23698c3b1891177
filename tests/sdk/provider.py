"""A provider with OpenAI's protocol. What it answers depends on what is asked, and on the model:

mirror      the text of the answer is the request's body, byte for byte
status-N    the answer is an error with that status
cut         a stream breaks off
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}


def tool_call(number, name, arguments):
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def message_for(body, raw):
    """The assistant's message and why it ends."""
    message = {"role": "assistant", "content": "Hello from the provider!", "refusal": None}
    if body["model"] == "mirror":
        return message | {"content": raw.decode()}, "stop"
    if body.get("tools"):
        calls = [tool_call(0, "weather", '{"city":"Paris"}'), tool_call(1, "weather", '{"city":"Rome"}')]
        return message | {"content": None, "tool_calls": calls}, "tool_calls"
    if (body.get("response_format") or {}).get("type") == "json_schema":
        return message | {"content": '{"city":"Paris","temperature":21}'}, "stop"
    if "audio" in body.get("modalities", []):
        audio = {"id": "audio_1", "data": "UklGRg==", "transcript": "hi", "expires_at": 1_900_000_000}
        return message | {"content": None, "audio": audio}, "stop"
    return message, "stop"


def choices_for(body, raw):
    message, finish = message_for(body, raw)
    logprobs = LOGPROBS if body.get("logprobs") else None
    count = body.get("n") or 1
    return [{"index": i, "message": message, "logprobs": logprobs, "finish_reason": finish} for i in range(count)]


def deltas(message):
    """The message in the pieces in which it is streamed."""
    yield {"role": "assistant", "content": None if message.get("tool_calls") else "", "refusal": None}
    text = message["content"] or ""
    for start in range(0, len(text), 7):
        yield {"content": text[start : start + 7]}
    for index, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        yield {"tool_calls": [{"index": index} | call | {"function": {"name": call["function"]["name"], "arguments": ""}}]}
        for start in range(0, len(arguments), 5):
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[start : start + 5]}}]}


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        if self.headers["authorization"] != "Bearer key-of-the-provider":
            return self.fail(401, "wrong key")
        body = json.loads(raw)
        if body["model"].startswith("status-"):
            return self.fail(int(body["model"].removeprefix("status-")), "the provider's words")
        if self.path == "/v1/images/generations":
            return self.answer({"created": 1_700_000_000, "data": [{"b64_json": "iVBORw=="}] * (body.get("n") or 1)})
        if body.get("stream"):
            return self.stream(body, raw)
        whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": body["model"]}
        return self.answer(whole | {"choices": choices_for(body, raw), "usage": USAGE})

    def log_request(self, *_):
        pass  # only errors are of interest

    def fail(self, status, message):
        error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": "a_code"}
        self.answer({"error": error}, status, {"retry-after": "7"} if status == 429 else {})

    def answer(self, value, status=200, headers=None):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, body, raw):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": body["model"]}
        choices = choices_for(body, raw)
        pieces = [list(deltas(choice["message"])) for choice in choices]
        for number in range(len(pieces[0])):
            for choice, of_choice in zip(choices, pieces):
                event = {"index": choice["index"], "delta": of_choice[number], "finish_reason": None}
                self.event(base | {"choices": [event | {"logprobs": choice["logprobs"] if number else None}]})
            if body["model"] == "cut" and number == 1:
                self.close_connection = True
                return
        for choice in choices:
            end = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
            self.event(base | {"choices": [end]})
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event(base | {"choices": [], "usage": USAGE})
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, value):
        self.chunk(f"data: {json.dumps(value)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    print("127.0.0.1:%d" % server.server_port, flush=True)
    server.serve_forever()
