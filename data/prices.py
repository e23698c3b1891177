#!/usr/bin/env python3
"""Reads the figures of `prices` in data/models.json again.

    pip download litellm --no-deps && unzip litellm-*.whl 'litellm/model_prices*'
    data/prices.py litellm/model_prices_and_context_window_backup.json > prices.json

Which models are priced is what data/models.json says: add an entry with an `id` alone, and it is filled in. Prints the list
`prices`; what is not in the source any more is printed as it was, and named on standard error. Raise `price_version` and
say the new date in `source` when you take it over.
"""

import json
import re
import sys
from decimal import Decimal
from pathlib import Path

# USD per token to micro-USD per million tokens, and USD to micro-USD.
PER_TOKEN, PER_UNIT = Decimal(10) ** 12, Decimal(10) ** 6

TOKENS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_in": "input_cost_per_audio_token",
    "audio_out": "output_cost_per_audio_token",
}
# What is left out when it says nothing new.
SAME_AS = {"cache_write": "input", "reasoning": "output", "audio_in": "input", "audio_out": "output", "cache_read": "input"}

# Our prefix, and the source's name of the rest.
NAMES = [
    ("openrouter/anthropic/", lambda rest: rest.replace(".", "-")),
    ("openrouter/google/", lambda rest: f"gemini/{rest}"),
    ("openrouter/openai/", lambda rest: rest),
    ("openrouter/x-ai/", lambda rest: f"xai/{rest}"),
    ("openai/", lambda rest: rest),
    ("anthropic/", lambda rest: rest),
    ("cohere/", lambda rest: rest),
    ("together/", lambda rest: f"together_ai/{rest}"),
    ("fireworks/", lambda rest: f"fireworks_ai/{rest}"),
    ("", lambda rest: rest),
]


def source_name(model_id):
    prefix, name = next((prefix, name) for prefix, name in NAMES if model_id.startswith(prefix))
    return name(model_id[len(prefix) :])


def whole(amount, unit):
    scaled = Decimal(amount) * unit
    if scaled != scaled.to_integral_value() or not 0 <= scaled < 2**32:
        raise ValueError(f"{amount} is not a whole number of the unit")
    return int(scaled)


def token_prices(facts, suffix=""):
    found = {ours: facts[theirs + suffix] for ours, theirs in TOKENS.items() if facts.get(theirs + suffix) is not None}
    return {ours: whole(amount, PER_TOKEN) for ours, amount in found.items()}


def price(model_id, facts):
    makes_images = facts["mode"] == "image_generation"
    if makes_images and "output_cost_per_image_token" in facts:
        # The tokens of such a reply are those of its images.
        facts = {**facts, "output_cost_per_token": facts["output_cost_per_image_token"]}
    prices = {"input": 0, "output": 0, **token_prices(facts)}
    if not prices.get("cache_write", 1):
        # Zero means that writing is not billed apart from input.
        del prices["cache_write"]
    if makes_images and not prices["output"]:
        # Named for the input, but it is the price of a made image.
        prices["per_image"] = whole(facts.get("output_cost_per_image") or facts["input_cost_per_image"], PER_UNIT)
    if model_id.startswith("perplexity/"):
        # Every request searches, with a small context unless it asks for more.
        prices["per_request"] = whole(facts["search_context_cost_per_query"]["search_context_size_low"], PER_UNIT)
    tiers = []
    for threshold in sorted({int(found[1]) for key in facts if (found := re.search(r"token_above_(\d+)k_tokens$", key))}):
        if tier := token_prices(facts, f"_above_{threshold}k_tokens"):
            tiers.append({"above": threshold * 1000, **tier})
    for ours, same in SAME_AS.items():
        if prices.get(ours) == prices[same] and not any(ours in tier or same in tier for tier in tiers):
            prices.pop(ours)
    return prices | ({"tiers": tiers} if tiers else {})


def entry(old, facts):
    new = {"id": old["id"]}
    if facts["mode"] == "image_generation":
        new["kind"] = "image"
    elif "output_cost_per_audio_token" in facts:
        new["kind"] = "audio"
    if old["id"].startswith(("openai/", "azure/", "openrouter/openai/")) or "gpt-oss" in old["id"]:
        new["encoding"] = "o200k"
    new["price"] = price(old["id"], facts)
    sizes = {name: facts.get(name) for name in ("max_input_tokens", "max_output_tokens")}
    new |= {name: size for name, size in sizes.items() if size}
    return new | {name: old[name] for name in ("hides_reasoning",) if name in old}


def main():
    source = json.loads(Path(sys.argv[1]).read_text(), parse_float=Decimal)
    models = json.loads((Path(__file__).parent / "models.json").read_text())
    lines = []
    for old in models["prices"]:
        facts = source.get(source_name(old["id"]))
        if facts is None:
            print(f"not in the source: {old['id']}", file=sys.stderr)
        lines.append(json.dumps(entry(old, facts) if facts else old, ensure_ascii=False))
    print("[\n    " + ",\n    ".join(lines) + "\n  ]")


if __name__ == "__main__":
    main()
