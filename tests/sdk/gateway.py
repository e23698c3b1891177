"""Where the gateway is, and keys of it."""

import json
import os
import urllib.request

URL = os.environ["AI4FREE_URL"]


def new_key(**members):
    body = json.dumps({"name": "sdk"} | members).encode()
    headers = {"content-type": "application/json", "x-system-secret": os.environ["SYSTEM_SECRET"]}
    request = urllib.request.Request(f"{URL}/v1/api-keys", body, headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)["api_key"]
