// The server whose GPUs have the least to do; of those that are alike, the one with the fewest sessions.
function (input) {
  const hasGpu = server => (server.gpus || []).length > 0 || Boolean(server.gpu);
  // Percent for each GPU. A session that is on its way there counts as one GPU that is taken.
  const load = server => {
    const gpus = server.gpus || [];
    const busy = gpus.reduce((sum, gpu) => sum + (gpu.utilization || 0), 0);
    return (busy + 100 * (server.pending || 0)) / Math.max(gpus.length, 1);
  };
  const sessions = server => (server.sessions || 0) + (server.pending || 0);
  const rows = input.servers.filter(hasGpu).map(server => ({
    id: server.serverId,
    load: load(server),
    sessions: sessions(server),
    lot: Math.random(),
  }));
  if (rows.length === 0) throw new Error("No server with a GPU is free");
  rows.sort((a, b) => a.load - b.load || a.sessions - b.sessions || a.lot - b.lot);
  return rows[0].id;
}
