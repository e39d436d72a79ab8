/** Exports: files of usage that stay. Ask for one, watch it, fetch it. */

import { useEffect, useState } from 'preact/hooks';
import { postJson, Refused, type Job, type Problem } from '../api.ts';
import type { View } from '../address.ts';
import { bytes, count, instantName } from '../format.ts';
import { useAnswer } from '../hooks.ts';
import { CopyButton } from '../parts/actions.tsx';
import { dimensionName } from '../parts/controls.tsx';
import { ProblemBox, Waiting } from '../parts/states.tsx';
import { pathOf } from '../question.ts';
import { utcText } from '../window.ts';

interface Props {
  view: View;
  onView: (view: View) => void;
  turn: number;
}

interface Page {
  jobs: Job[];
  nextCursor: string | null;
}

const WATCH_MS = 2000;

export function ExportsView({ view, onView, turn }: Props) {
  const [again, setAgain] = useState(0);
  const [cursors, setCursors] = useState<string[]>([]);
  const cursor = cursors.at(-1);
  const path = view.org === 'all' ? null : `${pathOf(view, 'exports')}?limit=20${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`;
  const list = useAnswer<Page>(path, turn + again);
  const watched = list.data?.jobs.some((job) => job.status === 'pending' || job.status === 'running') ?? false;
  useEffect(() => {
    if (!watched) return undefined;
    const timer = setTimeout(() => setAgain((times) => times + 1), WATCH_MS);
    return () => clearTimeout(timer);
  }, [watched, list.at]);
  if (view.org === 'all') {
    return (
      <section class="empty">
        <h2>Exports are of one organisation</h2>
        <p>Choose one above.</p>
      </section>
    );
  }
  const retry = () => setAgain((times) => times + 1);
  return (
    <>
      <Ask view={view} onView={onView} onDone={retry} />
      {list.problem && <ProblemBox problem={list.problem} view={view} onView={onView} onRetry={retry} />}
      {!list.data && list.waitingSince && <Waiting since={list.waitingSince} />}
      {list.data && <Jobs page={list.data} view={view} />}
      <p class="row">
        {cursors.length > 0 && (
          <button type="button" onClick={() => setCursors((known) => known.slice(0, -1))}>
            Newer
          </button>
        )}
        {list.data?.nextCursor && (
          <button type="button" onClick={() => setCursors((known) => [...known, list.data?.nextCursor ?? ''])}>
            Older
          </button>
        )}
      </p>
    </>
  );
}

interface Dimensions {
  dimensions: { name: string }[];
}

function Ask({ view, onView, onDone }: { view: View; onView: (view: View) => void; onDone: () => void }) {
  const [granularity, setGranularity] = useState('daily');
  const [group, setGroup] = useState('model');
  const [packed, setPacked] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [said, setSaid] = useState('');
  const [busy, setBusy] = useState(false);
  const kept = useAnswer<Dimensions>(pathOf(view, 'dimensions'), 0);
  const groupings = ['model', ...(kept.data?.dimensions.flatMap((each) => [each.name, `model,${each.name}`]) ?? []), 'none'];
  const send = async (event?: Event) => {
    event?.preventDefault();
    setBusy(true);
    setProblem(null);
    setSaid('');
    try {
      await postJson<Job>(pathOf(view, 'exports'), {
        timeRange: { start: utcText(view.start, view.zone), end: utcText(view.end, view.zone) },
        granularity,
        groupBy: group,
        timeZone: view.zone,
        compression: packed ? 'gzip' : 'none',
      });
      setSaid('Asked. It is in the list below.');
      onDone();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      setProblem(error.problem);
    }
    setBusy(false);
  };
  return (
    <section class="panel">
      <h2>Ask for a file</h2>
      <p class="fine">A CSV of the window above, of at most 31 days and any number of rows. It stays for download, with a checksum.</p>
      <form class="controls" onSubmit={send}>
        <label>
          Rows{' '}
          <select value={granularity} onChange={(event) => setGranularity(event.currentTarget.value)}>
            <option value="hourly">by hour</option>
            <option value="daily">by day</option>
            <option value="monthly">by month</option>
          </select>
        </label>
        <label>
          Group by{' '}
          <select value={group} onChange={(event) => setGroup(event.currentTarget.value)}>
            {groupings.map((name) => (
              <option value={name}>{name === 'none' ? 'nothing' : name.split(',').map(dimensionName).join(' and ')}</option>
            ))}
          </select>
        </label>
        <label class="check">
          <input type="checkbox" checked={packed} onChange={(event) => setPacked(event.currentTarget.checked)} /> gzip
        </label>
        <button type="submit" class="main" disabled={busy}>
          Export
        </button>
        <span role="status">{said}</span>
      </form>
      {problem && <ProblemBox problem={problem} view={view} onView={onView} onRetry={() => void send()} />}
    </section>
  );
}

const STATES: Record<Job['status'], string> = { pending: 'waiting', running: 'running', succeeded: 'ready', failed: 'failed', expired: 'expired' };

function Jobs({ page, view }: { page: Page; view: View }) {
  if (page.jobs.length === 0) {
    return (
      <section class="empty">
        <h2>No exports yet</h2>
        <p>Choose a window above and ask for a file.</p>
      </section>
    );
  }
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Exports">
      <table class="jobs">
        <caption>Exports, newest first</caption>
        <thead>
          <tr>
            <th scope="col">Window</th>
            <th scope="col">State</th>
            <th scope="col" class="number">Rows</th>
            <th scope="col" class="number">Size</th>
            <th scope="col">File</th>
            <th scope="col">Asked</th>
          </tr>
        </thead>
        <tbody>
          {page.jobs.map((job) => (
            <JobRow key={job.jobId} job={job} view={view} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function JobRow({ job, view }: { job: Job; view: View }) {
  const short = (instant: string) => instant.slice(0, 16).replace('T', ' ').replace(' 00:00', '');
  return (
    <tr>
      <th scope="row">
        {short(job.timeRange.start)} to {short(job.timeRange.end)}
        <span class="fine">
          {' '}
          {job.granularity}, {job.timeZone}, by {job.groupBy === 'none' ? 'nothing' : <bdi>{job.groupBy}</bdi>}
          {job.models ? `, ${job.models.length} models` : ''}
        </span>
      </th>
      <td>
        <span class={`state ${job.status}`}>{STATES[job.status]}</span>
        {job.error && (
          <span class="fine">
            {' '}
            {job.status === 'failed' ? '' : 'last attempt: '}
            <bdi>{job.error}</bdi>
          </span>
        )}
      </td>
      <td class="number">{job.rowCount === null ? `${count(job.rowsDone)} so far` : count(job.rowCount)}</td>
      <td class="number">{job.sizeBytes === null ? '–' : bytes(job.sizeBytes)}</td>
      <td>
        {job.status === 'succeeded' && (
          <>
            <a href={`${pathOf(view, 'exports')}/${job.jobId}/download`} download>
              Download
            </a>{' '}
            {job.checksum && <CopyButton text={job.checksum} name="Copy SHA-256" />}
            {job.checksum && <code class="fine sum">{job.checksum}</code>}
            {job.dataAsOf && <span class="fine">Data as of {instantName(job.dataAsOf, view.zone)}. </span>}
            {job.completeSince && <span class="fine">Complete since {instantName(job.completeSince, view.zone)}. </span>}
            {job.expiresAt && <span class="fine">Kept until {instantName(job.expiresAt, view.zone)}.</span>}
          </>
        )}
        {job.status === 'expired' && <span class="fine">Its time is over. Ask again.</span>}
      </td>
      <td>
        {instantName(job.createdAt, view.zone)}
        <span class="fine">
          {' '}
          by <bdi>{job.requestedBy}</bdi>
        </span>
      </td>
    </tr>
  );
}
