// Keeps the servers with a GPU if the request asks for one with "gpu": true; passes if it does not.
function (input) {
  const hasGpu = server => (server.gpus || []).length > 0 || Boolean(server.gpu);
  return input.data && input.data.gpu && input.servers.filter(hasGpu);
}
