import * as sdk from "@prom-hub/sdk";

import { FakeHub } from "./fake-hub.mjs";
import { suite } from "./suite.mjs";

suite("the client, on a fake hub", sdk, async () => {
  const hub = await FakeHub.start();
  return { url: hub.url, token: "t", stop: () => hub.stop() };
});
