// UTF-8 for the page that Jest makes with jsdom, which has neither class. Everywhere else the engine's own are taken.

/** Only `decode` of a whole text, of bytes that are valid. */
class Decoder {
  decode(bytes = new Uint8Array()) {
    let escaped = "";
    for (const byte of bytes) escaped += `%${byte.toString(16).padStart(2, "0")}`;
    return decodeURIComponent(escaped);
  }
}

/** Without `encodeInto`, which the bindings make of `encode`. */
class Encoder {
  encode(text) {
    const bytes = [];
    for (const char of text.toWellFormed?.() ?? text) {
      const point = char.codePointAt(0);
      if (point < 0x80) bytes.push(point);
      else if (point < 0x800) bytes.push(0xc0 | (point >> 6), 0x80 | (point & 63));
      else if (point < 0x10000) bytes.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 63), 0x80 | (point & 63));
      else bytes.push(0xf0 | (point >> 18), 0x80 | ((point >> 12) & 63), 0x80 | ((point >> 6) & 63), 0x80 | (point & 63));
    }
    return Uint8Array.from(bytes);
  }
}

const { TextDecoder = Decoder, TextEncoder = Encoder } = globalThis;

export { TextDecoder, TextEncoder };
