import "./style/base.css";
import "./style/frame.css";
import "./style/grid.css";
// Last: it overrides the others on small screens.
import "./style/narrow.css";
import { startApp } from "./app.js";

startApp();
