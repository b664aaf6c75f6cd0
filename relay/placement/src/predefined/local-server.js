// The server that the user is connected to; passes if it cannot be used now.
function (input) {
  const id = input.local.serverId;
  return input.servers.some(server => server.serverId === id) && id;
}
