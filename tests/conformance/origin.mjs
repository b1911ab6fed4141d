// The suite's own origin server listens on every interface; tests have no business beyond loopback.

import net from 'node:net'

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port) {
  return listen.call(this, { host: '127.0.0.1', port: Number(port) })
}

await import('http-cache-tests/server/server.mjs')
