// The server that the user asked for, if there is one: data.serverId.
function (input) {
  const id = input.data && input.data.serverId;
  return typeof id === "string" && id;
}
