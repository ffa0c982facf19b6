// The first line of each command. After it there is silence until cargo has built xtask: seconds, or a minute where the
// network is slow.

const lines = {
  start: "builds what has changed, then starts the hub: about 3 minutes the first time, a second later on",
  test: "builds what the tests need, then runs them: all take about 18 minutes the first time",
  build: "builds the SDK, the page and the hub as it is shipped: about 8 minutes the first time",
  lint: "checks all that needs no running: about 5 minutes the first time",
  fuzz: "looks for inputs that break a reader: about 8 minutes to build the first time, then as long as you say",
  setup: "prepares this machine: about a minute the first time",
};

console.log(`Prom Hub: ${lines[process.argv[2]]}`);
