// The server of the login that asks; passes if nothing can be started there now.
function (input) {
  const id = input.user && input.user.serverId;
  return input.servers.some(server => server.serverId === id) && id;
}
