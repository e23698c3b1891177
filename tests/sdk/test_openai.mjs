// The gateway as OpenAI's SDK for Node sees it.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import test from 'node:test'

const require = createRequire(`${process.env.NODE_PATH}/`)
const OpenAI = require('openai')

const baseURL = `${process.env.AI4FREE_URL}/v1`
const messages = [{ role: 'user', content: 'Hello!' }]
const tools = [{ type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: {} } } }]

async function newClient(members = {}, options = {}) {
  const response = await fetch(`${baseURL}/api-keys`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-system-secret': process.env.SYSTEM_SECRET },
    body: JSON.stringify({ name: 'sdk', ...members }),
  })
  assert.equal(response.status, 201)
  return new OpenAI({ apiKey: (await response.json()).api_key, baseURL, maxRetries: 0, ...options })
}

const client = await newClient()
const ask = (members = {}, of = client) => of.chat.completions.create({ model: 'openai/gpt-4o', messages, ...members })

async function chunksOf(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return chunks
}

const textOf = (chunks, index = 0) =>
  chunks.flatMap((chunk) => chunk.choices.filter((choice) => choice.index === index)).map((choice) => choice.delta.content ?? '').join('')

test('a whole completion', async () => {
  const completion = await ask()
  assert.equal(completion.choices[0].message.content, 'Hello from the provider!')
  assert.equal(completion.usage.total_tokens, 21)
  assert.match(completion._request_id, /^req_/)
})

test('a stream and its end', async () => {
  const chunks = await chunksOf(await ask({ stream: true }))
  assert.equal(textOf(chunks), 'Hello from the provider!')
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop')
  assert.ok(chunks.every((chunk) => !chunk.usage && chunk.choices.length > 0))
})

test('usage is streamed to those who asked', async () => {
  const chunks = await chunksOf(await ask({ stream: true, stream_options: { include_usage: true } }))
  assert.deepEqual(chunks.filter((chunk) => chunk.usage).map((chunk) => chunk.usage.total_tokens), [21])
})

test('tools, whole and streamed', async () => {
  const whole = await ask({ tools })
  assert.deepEqual(whole.choices[0].message.tool_calls.map((call) => call.id), ['call_0', 'call_1'])
  const stream = client.chat.completions.stream({ model: 'openai/gpt-4o', messages, tools })
  const message = await stream.finalMessage()
  assert.deepEqual(message.tool_calls.map((call) => JSON.parse(call.function.arguments)), [{ city: 'Paris' }, { city: 'Rome' }])
})

test('structured output', async () => {
  const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
  const completion = await client.chat.completions.parse({
    model: 'openai/gpt-4o',
    messages,
    response_format: { type: 'json_schema', json_schema: { name: 'weather', schema } },
  })
  assert.deepEqual(completion.choices[0].message.parsed, { city: 'Paris', temperature: 21 })
})

test('several choices and log probabilities', async () => {
  const completion = await ask({ n: 2, logprobs: true })
  assert.equal(completion.choices[1].logprobs.content[0].token, 'Hi')
  const chunks = await chunksOf(await ask({ n: 2, logprobs: true, stream: true }))
  for (const index of [0, 1]) assert.equal(textOf(chunks, index), 'Hello from the provider!')
})

test('unknown members reach the provider', async () => {
  const completion = await ask({ model: 'openai/mirror', top_k: 5, x_nested: { a: [1.5, null] } })
  const sent = JSON.parse(completion.choices[0].message.content)
  assert.deepEqual([sent.model, sent.top_k, sent.x_nested], ['mirror', 5, { a: [1.5, null] }])
})

test('audio', async () => {
  const completion = await ask({ modalities: ['text', 'audio'], audio: { voice: 'nova', format: 'wav' } })
  assert.equal(completion.choices[0].message.audio.data, 'UklGRg==')
})

test('models', async () => {
  const ids = []
  for await (const model of client.models.list()) ids.push(model.id)
  assert.ok(ids.includes('local/echo'))
  assert.equal((await client.models.retrieve('Provider-8/llama-4-maverick:free')).object, 'model')
})

test('images', async () => {
  const images = await client.images.generate({ model: 'openai/gpt-image-1', prompt: 'a cat' })
  assert.equal(images.data[0].b64_json, 'iVBORw==')
})

test('a stream that breaks off throws', async () => {
  await assert.rejects(async () => chunksOf(await ask({ model: 'openai/cut', stream: true })), OpenAI.APIError)
})

test('a stream that is left can be left', async () => {
  for await (const chunk of await ask({ stream: true })) {
    assert.ok(chunk.id)
    break
  }
  assert.equal((await ask()).choices[0].finish_reason, 'stop')
})

async function fails(kind, status, call) {
  const error = await call().then(
    () => assert.fail(`expected ${status}`),
    (error) => error,
  )
  assert.ok(error instanceof kind, `${error}`)
  assert.equal(error.status, status)
  assert.match(error.requestID, /^req_/)
  return error
}

test('our errors', async () => {
  assert.equal((await fails(OpenAI.BadRequestError, 400, () => ask({ n: 0 }))).param, 'n')
  assert.equal((await fails(OpenAI.NotFoundError, 404, () => ask({ model: 'no-such-model' }))).code, 'model_not_found')
  const wrong = new OpenAI({ apiKey: 'sk-a4f-wrong', baseURL, maxRetries: 0 })
  assert.equal((await fails(OpenAI.AuthenticationError, 401, () => ask({}, wrong))).code, 'invalid_api_key')
  const narrow = await newClient({ models: ['local/*'] })
  await fails(OpenAI.PermissionDeniedError, 403, () => ask({}, narrow))
  const limited = await newClient({ limits: { requests_per_minute: 1 } })
  await ask({}, limited)
  const error = await fails(OpenAI.RateLimitError, 429, () => ask({}, limited))
  assert.ok(Number(error.headers.get('retry-after')) > 0)
})

test("the provider's errors", async () => {
  for (const [theirs, ours, kind] of [
    [400, 400, OpenAI.BadRequestError],
    [404, 404, OpenAI.NotFoundError],
    [429, 429, OpenAI.RateLimitError],
    [401, 502, OpenAI.InternalServerError],
    [403, 502, OpenAI.InternalServerError],
    [500, 502, OpenAI.InternalServerError],
  ]) {
    for (const stream of [false, true]) {
      const error = await fails(kind, ours, () => ask({ model: `openai/status-${theirs}`, stream }))
      if (theirs === 429) assert.equal(error.headers.get('retry-after'), '7')
      if (theirs === 400) assert.match(error.message, /the provider's words/)
    }
  }
})
