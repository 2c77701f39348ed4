// Calls the server by the Connect client for Node: SIGNALBOX_URL and SIGNALBOX_KEY name it. The arguments are the folder
// in which `npm install @connectrpc/connect @connectrpc/connect-node @connectrpc/connect-web @bufbuild/protobuf` was run,
// and the contract as a file that `buf build` wrote.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const load = createRequire(join(process.argv[2], 'index.js'))
const { createFileRegistry, fromBinary } = load('@bufbuild/protobuf')
const { FileDescriptorSetSchema } = load('@bufbuild/protobuf/wkt')
const { Code, ConnectError, createClient } = load('@connectrpc/connect')
const { compressionGzip, createConnectTransport } = load('@connectrpc/connect-node')
const web = load('@connectrpc/connect-web')

const contract = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(process.argv[3])))
const key = process.env.SIGNALBOX_KEY
const authorize = (next) => (request) => {
  request.header.set('Authorization', `Bearer ${key}`)
  return next(request)
}

async function fail(call) {
  try {
    await call
  } catch (error) {
    return ConnectError.from(error)
  }
  assert.fail('the call succeeded')
}

for (const useBinaryFormat of [false, true]) {
  const common = { baseUrl: process.env.SIGNALBOX_URL, interceptors: [authorize], useBinaryFormat }
  const http = { ...common, httpVersion: '1.1', compressMinBytes: 0 }
  const transports = [
    createConnectTransport(http),
    createConnectTransport({ ...http, sendCompression: compressionGzip }),
    web.createConnectTransport(common),
  ]
  for (const transport of transports) {
    const ingest = createClient(contract.getService('signalbox.v1.EventIngest'), transport)
    const matches = createClient(contract.getService('signalbox.v1.MatchStream'), transport)
    const event = (total) => ({
      name: 'order_completed',
      contact: { case: 'email', value: 'ada@example.com' },
      properties: { order_total: total, currency: 'é'.repeat(2000) },
    })

    const { receipt } = await ingest.sendEvent({ event: event('129.99') })
    assert.equal(receipt.event.properties.order_total, 129.99)
    assert.equal(receipt.matchCount, 1)
    const listed = await ingest.listEvents({ pageSize: 10 }, { timeoutMs: 10000 })
    assert.equal(listed.events[0].id, receipt.event.id)

    const refused = await fail(ingest.sendEvent({ event: event('much') }))
    assert.equal(refused.code, Code.InvalidArgument)
    const types = refused.details.map((detail) => detail.type)
    assert.deepEqual(types, ['google.rpc.ErrorInfo', 'google.rpc.BadRequest'])
    assert.equal(refused.details[1].debug.fieldViolations[0].field, 'properties.order_total')

    const from = { place: { case: 'afterPosition', value: 0n } }
    // Leaving the loop does not end the call.
    const enough = new AbortController()
    let seen = 0
    for await (const response of matches.watchMatches({ start: from, maxMatches: 1 }, { signal: enough.signal })) {
      seen += response.matches.length
      if (response.position === response.headPosition) break
    }
    enough.abort()
    assert.ok(seen > 0)

    const late = await fail(
      matches.pullMatches({ subscription: 'mailer', consumerId: 'node', wait: { seconds: 30n } }, { timeoutMs: 200 }),
    )
    assert.equal(late.code, Code.DeadlineExceeded)
    const unknown = await fail(ingest.getEvent({ id: 'none' }))
    assert.equal(unknown.code, Code.NotFound)
  }
}
console.log('ok')
