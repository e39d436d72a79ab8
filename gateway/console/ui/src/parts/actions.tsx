/** Taking a view along: as a file, as a command, as a link. */

import { useState } from 'preact/hooks';
import { download, Refused } from '../api.ts';
import { bytes } from '../format.ts';

export function CopyButton({ text, name }: { text: string; name: string }) {
  const [said, setSaid] = useState('');
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid('Copied');
    } catch {
      setSaid('The browser does not let pages copy here');
    }
    setTimeout(() => setSaid(''), 4000);
  };
  return (
    <span class="action">
      <button type="button" onClick={copy} title={text}>
        {name}
      </button>
      <span role="status">{said}</span>
    </span>
  );
}

export function DownloadButton({ path, file, name }: { path: string; file: string; name: string }) {
  const [said, setSaid] = useState('');
  const [busy, setBusy] = useState(false);
  const fetchFile = async () => {
    setBusy(true);
    setSaid('Asking …');
    try {
      const done = await download(path, file, (size) => setSaid(`${bytes(size)} …`));
      setSaid(done.truncated ? `${bytes(done.bytes)}; the newest rows were cut off, choose a shorter window` : bytes(done.bytes));
    } catch (error) {
      if (!(error instanceof Refused)) setSaid('The download ended before its end');
      else setSaid(error.problem.detail);
    }
    setBusy(false);
  };
  return (
    <span class="action">
      <button type="button" onClick={fetchFile} disabled={busy}>
        {name}
      </button>
      <span role="status">{said}</span>
    </span>
  );
}
