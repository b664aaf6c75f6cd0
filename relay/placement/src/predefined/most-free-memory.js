// The server with the most memory that programs may still get; passes if there is no server.
function (input) {
  const free = server => server.memAvailable || server.freemem || 0;
  const best = (found, server) => (found && free(found) >= free(server) ? found : server);
  const chosen = input.servers.reduce(best, undefined);
  return chosen && chosen.serverId;
}
