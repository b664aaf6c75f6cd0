// Keeps the servers with a GPU: one that the node has found, or "gpu" in its static data.
function (input) {
  const hasGpu = server => (server.gpus || []).length > 0 || Boolean(server.gpu);
  return input.servers.filter(hasGpu);
}
