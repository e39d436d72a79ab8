// Writes beside each built file what browsers take instead, so that the gateway packs nothing.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const packed = /\.(css|html|js|svg)$/;
let total = 0;
for (const entry of readdirSync('dist', { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !packed.test(entry.name)) continue;
  const path = `${entry.parentPath}/${entry.name}`;
  const body = readFileSync(path);
  const brotli = brotliCompressSync(body, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  writeFileSync(`${path}.br`, brotli);
  const gzip = gzipSync(body, { level: 9 });
  writeFileSync(`${path}.gz`, gzip);
  total += gzip.length;
}
const max = 250_000;
console.log(`${total} bytes in gzip`);
if (total > max) {
  console.error(`the console may have ${max} bytes`);
  process.exit(1);
}
