// Keeps the servers on which the user is logged in; passes if there is none.
function (input) {
  const login = input.user && input.user.login;
  const there = input.servers.filter(server => login && (server.loggedInUsers || []).includes(login));
  return there.length > 0 && there;
}
