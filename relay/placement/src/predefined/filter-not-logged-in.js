// Drops the servers on which the user is not logged in, also if that leaves none.
function (input) {
  const login = input.user && input.user.login;
  return input.servers.filter(server => login && (server.loggedInUsers || []).includes(login));
}
