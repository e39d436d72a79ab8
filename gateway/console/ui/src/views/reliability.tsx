/** Reliability: what fails or is slow, since when, and the raw events of it. */

import { useMemo } from 'preact/hooks';
import type { Freshness, Outcomes, Reliability, ReliabilityPoint } from '../api.ts';
import { member, type View } from '../address.ts';
import { LINES, STATUS } from '../colors.ts';
import { bucketName, count, milliseconds, percent, short } from '../format.ts';
import { DownloadButton } from '../parts/actions.tsx';
import { Chart, type Layer } from '../parts/chart.tsx';
import { dimensionName, overWindow } from '../parts/controls.tsx';
import { Card, Count } from '../parts/figures.tsx';
import { EmptyOrg, EmptyWindow, Incomplete } from '../parts/states.tsx';
import type { Column } from '../parts/table.tsx';
import { incident } from '../question.ts';
import { nameOf, rows, type Row } from '../series.ts';
import { addDays, bucketWindow, instantOf, localOf } from '../window.ts';
import { GroupName, Groups, zoomed } from './usage.tsx';

interface Props {
  view: View;
  onView: (view: View) => void;
  series: Reliability;
  sums: Reliability;
  freshness: Freshness | null;
  dark: boolean;
}

/** Of fewer calls a rate says little. */
const MIN_CALLS = 5;

function axisPercent(share: number): string {
  return `${Number((share * 100).toPrecision(3))}%`;
}

const STATUSES = ['error', 'timeout', 'throttled'] as const;

export function ReliabilityView({ view, onView, series, sums, freshness, dark }: Props) {
  const points = series.series;
  const shape = useMemo(() => {
    const buckets = points.map((point) => point.bucketStart);
    return { buckets, seconds: buckets.map((bucket) => Date.parse(bucket) / 1000) };
  }, [points]);
  const layers = useMemo(() => layersOf(points), [points]);
  if (series.totals.invocations === 0) {
    if (freshness?.status === 'unknown' && view.org !== 'all') return <EmptyOrg org={view.org} />;
    const showDay = (instant: string) => {
      const day = localOf(Date.parse(instant), view.zone).slice(0, 10);
      onView(overWindow(view, { start: day, end: addDays(day, 1) }, false));
    };
    return <EmptyWindow lastEventAt={freshness?.lastEventAt ?? null} zone={view.zone} onShow={showDay} />;
  }
  const chart = {
    ...shape,
    from: instantOf(view.start, view.zone) / 1000,
    to: instantOf(view.end, view.zone) / 1000,
    window: view,
    by: view.by,
    zone: view.zone,
    dark,
    picked: view.at,
    onPick: (at: string) => onView({ ...view, at }),
    onZoom: (from: number, to: number) => onView(zoomed(view, from, to)),
  };
  const calls = (index: number) => `${count(points[index]?.errors ?? 0)} of ${count(points[index]?.invocations ?? 0)} calls failed`;
  return (
    <>
      <Incomplete since={series.completeSince} what="These numbers" zone={view.zone} />
      <Incomplete since={series.detailsCompleteSince} what="Times to first token" zone={view.zone} />
      <Cards series={series} sums={sums} />
      <Spike view={view} onView={onView} points={points} />
      <div class="charts">
        <Chart kind="lines" title={`Error rate by ${view.by}, of ${MIN_CALLS} calls or more`} {...chart} layers={layers.rate} total={calls} axis={axisPercent} />
        <Chart kind="bars" title={`Errors by status and ${view.by}`} {...chart} layers={layers.status} total={calls} axis={short} />
      </div>
      <Codes totals={series.totals} />
      {view.group.length > 0 && <GroupTable {...{ view, onView, sums }} />}
      <div class="charts">
        <Chart kind="lines" title={`Latency by ${view.by}`} {...chart} layers={layers.latency} axis={milliseconds} />
        {series.totals.timeToFirstTokenMs.p50 === null ? (
          <p class="panel fine">Time to first token: no event of this window told it (timeToFirstTokenMs).</p>
        ) : (
          <Chart kind="lines" title={`Time to first token by ${view.by}`} {...chart} layers={layers.first} axis={milliseconds} />
        )}
      </div>
    </>
  );
}

function layersOf(points: ReliabilityPoint[]) {
  const line = (name: string, color: string, value: (point: ReliabilityPoint) => number | null, text: (value: number | null) => string, dash?: number[]): Layer => {
    const values = points.map(value);
    return { name, color, values, text: (index) => text(values[index] ?? null), ...(dash ? { dash } : {}) };
  };
  const percentiles = (of: 'latencyMs' | 'timeToFirstTokenMs') => [
    line('p50', LINES.p50, (point) => point[of].p50, milliseconds),
    line('p95', LINES.p95, (point) => point[of].p95, milliseconds, [8, 4]),
    line('p99', LINES.p99, (point) => point[of].p99, milliseconds, [2, 3]),
  ];
  return {
    rate: [
      {
        name: 'error rate',
        color: STATUS.error,
        // One failure of one call is 100%, and would hide what matters; the table has it.
        values: points.map((point) => (point.invocations >= MIN_CALLS ? point.errorRate : null)),
        text: (index: number) => percent(points[index]?.errorRate ?? null),
      },
    ],
    status: STATUSES.map((status) => line(status, STATUS[status], (point) => point.errorsByStatus[status], (value) => count(value ?? 0))),
    latency: percentiles('latencyMs'),
    first: percentiles('timeToFirstTokenMs'),
  };
}

function Cards({ series, sums }: { series: Reliability; sums: Reliability }) {
  const now = series.totals;
  const comparable = Date.parse(sums.start) === Date.parse(series.start) && Date.parse(sums.end) === Date.parse(series.end);
  const compared = comparable && (sums.previous?.totals.invocations ?? 0) > 0;
  const before = compared ? sums.previous?.totals : undefined;
  const figure = (name: string, value: (of: Outcomes) => number | null, text: (value: number | null) => string) => (
    <Card name={name} figure={text(value(now))} now={value(now)} before={before ? value(before) : undefined} beforeText={before ? text(value(before)) : ''} />
  );
  return (
    <section aria-label="Totals">
      <ul class="cards">
        <Card
          name="Error rate"
          figure={<span title={`${count(now.errors)} of ${count(now.invocations)} calls`}>{percent(now.errorRate)}</span>}
          now={now.errorRate}
          before={before ? before.errorRate : undefined}
          beforeText={before ? percent(before.errorRate) : ''}
        >
          <p class="fine">
            <Count value={now.errors} /> of <Count value={now.invocations} /> calls: error {count(now.errorsByStatus.error)}, timeout{' '}
            {count(now.errorsByStatus.timeout)}, throttled {count(now.errorsByStatus.throttled)}
          </p>
        </Card>
        {figure('p50 latency', (of) => of.latencyMs.p50, milliseconds)}
        {figure('p95 latency', (of) => of.latencyMs.p95, milliseconds)}
        {figure('p99 latency', (of) => of.latencyMs.p99, milliseconds)}
        {figure('p95 time to first token', (of) => of.timeToFirstTokenMs.p95, milliseconds)}
      </ul>
      <p class="fine">Percentiles are of all calls of the window together, within 1%; they are never averaged.</p>
    </section>
  );
}

/** The bucket that was chosen, else the worst one, with the way to its raw events. */
function Spike({ view, onView, points }: { view: View; onView: (view: View) => void; points: ReliabilityPoint[] }) {
  const chosen = points.find((point) => Date.parse(point.bucketStart) === Date.parse(view.at));
  const enough = points.filter((point) => point.errors > 0 && point.invocations >= MIN_CALLS);
  const worst = enough.reduce<ReliabilityPoint | undefined>((most, point) => ((point.errorRate ?? 0) > (most?.errorRate ?? -1) ? point : most), undefined);
  const point = chosen ?? worst;
  if (!point) return view.at ? <p class="notice">No calls in the {view.by} that was chosen.</p> : null;
  const name = bucketName(point.bucketStart, view.by, view.zone);
  const closer = view.by === 'minute' ? null : bucketWindow(point.bucketStart, view.by, view.zone);
  const file = `raw-events-${view.org}-${bucketWindow(point.bucketStart, view.by, view.zone).start.replace(/[:]/g, '')}`;
  const lookCloser = () => {
    if (closer) onView(overWindow(view, { start: localOf(Date.parse(closer.start), view.zone), end: localOf(Date.parse(closer.end), view.zone) }, false));
  };
  return (
    <section class="spike" aria-label="Raw events">
      <h2>{chosen ? `Chosen ${view.by}: ${name}` : `The worst ${view.by}: ${name}`}</h2>
      <p>
        {count(point.errors)} of {count(point.invocations)} calls failed ({percent(point.errorRate)}); error {count(point.errorsByStatus.error)}, timeout{' '}
        {count(point.errorsByStatus.timeout)}, throttled {count(point.errorsByStatus.throttled)}; p95 {milliseconds(point.latencyMs.p95)}.
      </p>
      <p class="row">
        {view.org === 'all' ? (
          <span class="fine">Raw events are of one organisation: choose one.</span>
        ) : (
          <>
            {STATUSES.filter((status) => point.errorsByStatus[status] > 0).map((status) => (
              <DownloadButton path={incident(view, point.bucketStart, status)} file={`${file}-${status}.csv`} name={`Raw events: ${status} (CSV)`} />
            ))}
            <DownloadButton path={incident(view, point.bucketStart, '')} file={`${file}.csv`} name="All raw events (CSV)" />
          </>
        )}
        {closer && (
          <button type="button" onClick={lookCloser}>
            Look closer
          </button>
        )}
        {chosen && (
          <button type="button" onClick={() => onView({ ...view, at: '' })}>
            Choose none
          </button>
        )}
      </p>
      {Object.keys(view.filters).some((name) => name !== 'modelId') && view.org !== 'all' && (
        <p class="fine">Raw events can be filtered by one model alone; other filters do not hold for these files.</p>
      )}
    </section>
  );
}

function Codes({ totals }: { totals: Outcomes }) {
  if (totals.errorCodes === null) {
    return <p class="notice">Error codes are kept by model and by no other dimension: they are not shown while another filter is set.</p>;
  }
  if (totals.errorCodes.length === 0) return null;
  const rest = totals.errors - totals.errorCodes.reduce((sum, code) => sum + code.count, 0);
  return (
    <div class="scroll narrow" tabIndex={0} role="region" aria-label="Error codes">
      <table>
        <caption>Error codes, the ten largest</caption>
        <thead>
          <tr>
            <th scope="col">Code</th>
            <th scope="col" class="number">Calls</th>
            <th scope="col" class="number">Share of errors</th>
          </tr>
        </thead>
        <tbody>
          {totals.errorCodes.map((code) => (
            <tr>
              <th scope="row">
                <bdi>{code.errorCode}</bdi>
              </th>
              <td class="number">{count(code.count)}</td>
              <td class="number">{percent(totals.errors > 0 ? code.count / totals.errors : null)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {rest > 0 && (
        <p class="fine">
          {count(rest)} more {rest === 1 ? 'error has' : 'errors have'} no code{totals.errorCodes.length < 10 ? '' : ', or a rarer one'}.
        </p>
      )}
    </div>
  );
}

function GroupTable({ view, onView, sums }: { view: View; onView: (view: View) => void; sums: Reliability }) {
  const names = view.group.map(member);
  const groups = useMemo(() => rows(sums.series, names), [sums, names.join()]);
  type Each = Row<ReliabilityPoint>;
  const totals = sums.totals;
  const column = (id: string, name: string, value: (of: Outcomes) => number | null, text: (value: number | null) => string): Column<Each> => ({
    id,
    name,
    numeric: true,
    value: (row) => value(row.point),
    cell: (row) => text(value(row.point)),
    total: text(value(totals)),
  });
  const columns: Column<Each>[] = [
    { id: 'name', name: view.group.map(dimensionName).join(' · '), value: (row) => nameOf(row.members, row.other), cell: (row) => <GroupName {...{ view, onView, row }} />, total: 'in all' },
    column('calls', 'Calls', (of) => of.invocations, (value) => count(value ?? 0)),
    column('errors', 'Errors', (of) => of.errors, (value) => count(value ?? 0)),
    column('rate', 'Error rate', (of) => of.errorRate, percent),
    column('p50', 'p50', (of) => of.latencyMs.p50, milliseconds),
    column('p95', 'p95', (of) => of.latencyMs.p95, milliseconds),
    column('p99', 'p99', (of) => of.latencyMs.p99, milliseconds),
    column('first', 'p95 first token', (of) => of.timeToFirstTokenMs.p95, milliseconds),
    column('speed', 'Output tokens/s', (of) => of.outputTokensPerSecond, (value) => (value === null ? '–' : count(value))),
  ];
  return <Groups {...{ view, onView, groups, columns }} usual="-rate" />;
}
