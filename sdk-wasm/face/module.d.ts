/** The module's bytes in base64. `bundle.mjs` makes the file. */ declare const base64: string;
export default base64;
