// Calls what the Node client of Resend offers for events and contacts. RESEND_BASE_URL and RESEND_API_KEY name the
// server; the argument is the folder in which `npm install resend` was run.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const { Resend } = createRequire(join(process.argv[2], 'index.js'))('resend')
const client = new Resend(process.env.RESEND_API_KEY)
const name = 'user.created'
const email = 'grace@example.com'

async function succeed(call) {
  const { data, error, headers } = await call
  assert.equal(error, null)
  assert.equal(headers['ratelimit-policy'], '2;w=1')
  return data
}

async function fail(call, statusCode, errorName) {
  const { data, error } = await call
  assert.equal(data, null)
  assert.deepEqual([error.statusCode, error.name], [statusCode, errorName])
}

const contact = await succeed(client.contacts.create({ email, firstName: 'Grace', properties: { age: 30 } }))
assert.equal(contact.object, 'contact')
const found = await succeed(client.contacts.get(email))
assert.deepEqual([found.id, found.first_name, found.properties], [contact.id, 'Grace', { age: { type: 'number', value: 30 } }])
await succeed(client.contacts.update({ id: contact.id, firstName: null, unsubscribed: true }))
const contacts = await succeed(client.contacts.list({ limit: 10 }))
assert.deepEqual(contacts.data.map((item) => [item.first_name, item.unsubscribed]), [[null, true]])

const event = await succeed(client.events.create({ name, schema: { seats: 'number' } }))
assert.equal(event.object, 'event')
assert.deepEqual((await succeed(client.events.get(name))).schema, { seats: 'number' })
assert.deepEqual((await succeed(client.events.list())).data.map((item) => item.id), [event.id])
const send = { event: name, contactId: contact.id, payload: { seats: '5' } }
assert.equal((await succeed(client.events.send(send, { idempotencyKey: 'once' }))).event, name)
assert.equal((await succeed(client.events.send(send, { idempotencyKey: 'once' }))).event, name)
await succeed(client.events.send({ event: name, email }))
await fail(client.events.send({ ...send, payload: { seats: 'x' } }), 422, 'validation_error')
await fail(client.events.send({ ...send, payload: {} }, { idempotencyKey: 'once' }), 409, 'invalid_idempotent_request')
await succeed(client.events.update(event.id, { schema: null }))
assert.equal((await succeed(client.events.get(event.id))).schema, null)
assert.equal((await succeed(client.events.remove(name))).deleted, true)
await fail(client.events.get(name), 404, 'not_found')

assert.equal((await succeed(client.contacts.remove(email))).deleted, true)
assert.equal((await succeed(client.contacts.remove(contact.id))).deleted, true)
await fail(client.contacts.get(contact.id), 404, 'not_found')
await fail(client.domains.list(), 404, 'not_found')
await fail(new Resend('re_unknown').events.list(), 403, 'invalid_api_key')
console.log('ok')
