// What every hub and client must do together, on the real hub: the binary that PROM_BIN names.

import * as sdk from "@prom-hub/sdk";

import { realHub } from "./helpers.mjs";
import { suite } from "./suite.mjs";

suite("the real hub", sdk, realHub);
