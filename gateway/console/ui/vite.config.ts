import { defineConfig } from 'vite';

export default defineConfig({
  base: './', // it also works below a prefix that a proxy takes away
  build: {
    assetsInlineLimit: 0, // the policy of the page allows no data: addresses
    modulePreload: { polyfill: false },
    target: 'es2022',
  },
  server: {
    // `npm run dev` beside `make up`: GATEWAY is CONSOLE_URL without its path.
    proxy: { '/v1': { target: process.env['GATEWAY'] ?? 'http://127.0.0.1:8084', rewrite: (path) => `/analytics${path}` } },
  },
});
