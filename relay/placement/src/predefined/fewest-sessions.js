// The server with the fewest sessions, those on their way to it included; by lot among equals.
function (input) {
  const count = server => (server.sessions || 0) + (server.pending || 0);
  let fewest = Infinity;
  let equals = [];
  for (const server of input.servers) {
    const sessions = count(server);
    if (sessions < fewest) {
      fewest = sessions;
      equals = [];
    }
    if (sessions === fewest) equals.push(server.serverId);
  }
  return equals[Math.floor(Math.random() * equals.length)];
}
