// Drops the servers whose static data says "vnode": true.
function (input) {
  return input.servers.filter(server => server.vnode !== true);
}
