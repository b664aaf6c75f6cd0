// Any server, by lot; passes if there is none.
function (input) {
  const lot = Math.floor(Math.random() * input.servers.length);
  return input.servers.length > 0 && input.servers[lot].serverId;
}
