/** Usage: what was spent on what, against the window before. */

import { useMemo } from 'preact/hooks';
import type { Reliability, Usage, UsagePoint } from '../api.ts';
import { member, writeAddress, type Measure, type View } from '../address.ts';
import { GROUPS, OTHER, SMALLER } from '../colors.ts';
import { approximate, type Exact } from '../exact.ts';
import { count, exactMoney, milliseconds, money, percent, short } from '../format.ts';
import type { Asked } from '../hooks.ts';
import { Chart, Spark, type Layer } from '../parts/chart.tsx';
import { dimensionName, overWindow } from '../parts/controls.tsx';
import { Card, Count, Money } from '../parts/figures.tsx';
import { EmptyOrg, EmptyWindow, Incomplete } from '../parts/states.tsx';
import { Table, type Column } from '../parts/table.tsx';
import { grid, nameOf, rows, thinned, together, type Row } from '../series.ts';
import { addDays, instantOf, localOf } from '../window.ts';

export interface UsageProps {
  view: View;
  onView: (view: View) => void;
  series: Usage;
  sums: Usage;
  reliability: Asked<Reliability>;
  dark: boolean;
}

const VALUES: Record<Measure, (point: UsagePoint) => Exact> = {
  cost: (point) => point.costEstimateCents,
  calls: (point) => point.invocations,
  tokens: (point) => tokens(point),
  errors: (point) => point.errors,
};

const TITLES: Record<Measure, string> = { cost: 'Spend', calls: 'Calls', tokens: 'Input and output tokens', errors: 'Errors' };

function tokens(sums: { inputTokens: Exact; outputTokens: Exact }): Exact {
  return typeof sums.inputTokens === 'number' && typeof sums.outputTokens === 'number'
    ? sums.inputTokens + sums.outputTokens
    : String(BigInt(sums.inputTokens) + BigInt(sums.outputTokens));
}

function shown(measure: Measure, value: Exact): string {
  return measure === 'cost' ? money(value) : count(value);
}

/** What an organisation is called in a list of them: a link to its own view. */
function orgLink(view: View, org: string) {
  return { ...view, org, group: ['model'], filters: {}, sort: '', at: '' };
}

export function UsageView({ view, onView, series, sums, reliability, dark }: UsageProps) {
  const names = view.group.map(member);
  const totals = sums.totals;
  const groups = useMemo(() => rows(sums.series, names), [sums, names.join()]);
  const value = VALUES[view.measure];
  const order = useMemo(
    () => [...groups].sort((a, b) => approximate(value(b.point)) - approximate(value(a.point))).map((row) => row.key),
    [groups, value],
  );
  const table = useMemo(() => grid(series.series, names, order), [series, names.join(), order]);
  const layers = useMemo(() => layersOf(table, view.measure, value), [table, view.measure, value]);
  const wholes = useMemo(() => together(table.groups, table.buckets.length, value), [table, value]);
  if (Number(totals.invocations) === 0) {
    if (series.freshness.status === 'unknown' && view.org !== 'all') return <EmptyOrg org={view.org} />;
    const showDay = (instant: string) => {
      const day = localOf(Date.parse(instant), view.zone).slice(0, 10);
      onView(overWindow(view, { start: day, end: addDays(day, 1) }, false));
    };
    return <EmptyWindow lastEventAt={series.freshness.lastEventAt} zone={view.zone} onShow={showDay} />;
  }
  const colors = new Map(layers.map((layer) => [layer.key, layer.color]));
  const zoom = (from: number, to: number) => onView(zoomed(view, from, to));
  return (
    <>
      <Incomplete since={series.completeSince} what="These numbers" zone={view.zone} />
      <Incomplete since={series.detailsCompleteSince} what="Cached and reasoning tokens" zone={view.zone} />
      <Cards sums={sums} reliability={reliability} view={view} />
      <Chart
        kind="bars"
        title={`${TITLES[view.measure]} by ${view.by}${view.group.length > 0 ? ` and ${view.group.map(dimensionName).join(' and ')}` : ''}`}
        buckets={table.buckets}
        seconds={table.seconds}
        layers={layers}
        total={(index) => shown(view.measure, wholes[index] ?? 0)}
        from={instantOf(view.start, view.zone) / 1000}
        to={instantOf(view.end, view.zone) / 1000}
        by={view.by}
        window={view}
        zone={view.zone}
        dark={dark}
        axis={(amount) => (view.measure === 'cost' ? axisMoney(amount) : short(amount))}
        onZoom={zoom}
      />
      <GroupTable {...{ view, onView, groups, totals }} sparks={sparksOf(table, value)} colors={colors} />
    </>
  );
}

function axisMoney(cents: number): string {
  return cents > 0 && cents < 100 ? exactMoney(Number(cents.toPrecision(6))) : money(Number(cents.toPrecision(12)));
}

/** The view over the days or hours that were marked in a chart. */
export function zoomed(view: View, from: number, to: number): View {
  const first = localOf(from * 1000, view.zone);
  const last = localOf(to * 1000, view.zone);
  if (view.by === 'minute' || view.by === 'hour') {
    const start = `${first.slice(0, 13)}:00`;
    let end = `${localOf(to * 1000 + 3_599_000, view.zone).slice(0, 13)}:00`;
    if (end <= start) end = localOf(instantOf(start, view.zone) + 3_600_000, view.zone);
    return overWindow(view, { start, end }, false);
  }
  return overWindow(view, { start: first.slice(0, 10), end: addDays(last, 1) }, false);
}

interface KeyedLayer extends Layer {
  key: string;
}

function layersOf(table: ReturnType<typeof grid<UsagePoint>>, measure: Measure, value: (point: UsagePoint) => Exact): KeyedLayer[] {
  const single = table.groups.filter((group) => !group.other);
  const first = single.slice(0, single.length > GROUPS.length ? GROUPS.length : undefined);
  const smaller = single.slice(first.length);
  const length = table.buckets.length;
  const layer = (key: string, name: string, color: string, values: Exact[]): KeyedLayer => ({
    key,
    name,
    color,
    values: values.map(approximate),
    text: (index) => shown(measure, values[index] ?? 0),
  });
  const made = first.map((group, index) =>
    layer(
      group.key,
      nameOf(group.members, false),
      GROUPS[index] ?? SMALLER,
      Array.from({ length }, (_, at) => {
        const point = group.cells[at];
        return point === undefined ? 0 : value(point);
      }),
    ),
  );
  if (smaller.length > 0) made.push(layer('smaller', `${smaller.length} smaller`, SMALLER, together(smaller, length, value)));
  const rest = table.groups.filter((group) => group.other);
  if (rest.length > 0) made.push(layer('other', 'all other', OTHER, together(rest, length, value)));
  return made;
}

function sparksOf(table: ReturnType<typeof grid<UsagePoint>>, value: (point: UsagePoint) => Exact): Map<string, number[]> {
  return new Map(
    table.groups.map((group) => {
      const values = table.buckets.map((_, index) => {
        const point = group.cells[index];
        return point === undefined ? 0 : approximate(value(point));
      });
      return [group.key, thinned(values, 45)];
    }),
  );
}

function Cards({ sums, reliability, view }: { sums: Usage; reliability: Asked<Reliability>; view: View }) {
  const now = sums.totals;
  const compared = sums.previous && Number(sums.previous.totals.invocations) > 0;
  const before = compared ? sums.previous?.totals : undefined;
  const rate = (of: { errors: Exact; invocations: Exact }) => (Number(of.invocations) === 0 ? null : Number(of.errors) / Number(of.invocations));
  const latency = reliability.data?.totals.latencyMs.p95 ?? null;
  const latencyBefore = reliability.data?.previous?.totals.latencyMs.p95 ?? null;
  return (
    <section aria-label="Totals">
      <ul class="cards">
        <Card
          name="Spend"
          figure={<Money cents={now.costEstimateCents} />}
          now={now.costEstimateCents}
          before={before?.costEstimateCents}
          beforeText={before ? money(before.costEstimateCents) : ''}
        />
        <Card
          name="Calls"
          figure={<Count value={now.invocations} />}
          now={now.invocations}
          before={before?.invocations}
          beforeText={before ? short(before.invocations) : ''}
        />
        <Card name="Tokens" figure={<Count value={tokens(now)} />} now={tokens(now)} before={before ? tokens(before) : undefined} beforeText={before ? short(tokens(before)) : ''}>
          <details>
            <summary>input and output</summary>
            <dl class="parts">
              <dt>input</dt>
              <dd><Count value={now.inputTokens} /></dd>
              <dt class="part">of it cached</dt>
              <dd><Count value={now.cachedInputTokens} /></dd>
              <dt class="part">of it cache write</dt>
              <dd><Count value={now.cacheWriteInputTokens} /></dd>
              <dt>output</dt>
              <dd><Count value={now.outputTokens} /></dd>
              <dt class="part">of it reasoning</dt>
              <dd><Count value={now.reasoningTokens} /></dd>
            </dl>
          </details>
        </Card>
        <Card
          name="Error rate"
          figure={<span title={`${count(now.errors)} of ${count(now.invocations)} calls`}>{percent(rate(now))}</span>}
          now={rate(now)}
          before={before ? rate(before) : undefined}
          beforeText={before ? percent(rate(before)) : ''}
        />
        <Card
          name="p95 latency"
          figure={reliability.problem ? <span class="small">not shown</span> : <span>{milliseconds(latency)}</span>}
          now={latency}
          before={compared && reliability.data ? latencyBefore : undefined}
          beforeText={milliseconds(latencyBefore)}
        >
          {reliability.problem && <p class="fine">{reliability.problem.detail}</p>}
        </Card>
      </ul>
      {sums.previous && (
        <p class="fine">
          {compared ? 'Compared with' : 'No calls to compare with in'} the window of the same length before it, {sums.previous.start.slice(0, 16).replace('T', ' ')} to{' '}
          {sums.previous.end.slice(0, 16).replace('T', ' ')} {view.zone}.
        </p>
      )}
    </section>
  );
}

interface GroupTableProps {
  view: View;
  onView: (view: View) => void;
  groups: Row<UsagePoint>[];
  totals: Usage['totals'];
  sparks: Map<string, number[]>;
  colors: Map<string, string>;
}

function GroupTable({ view, onView, groups, totals, sparks, colors }: GroupTableProps) {
  if (view.group.length === 0) return null;
  const value = VALUES[view.measure];
  const whole = approximate(value({ ...totals, bucketStart: '' }));
  const share = (row: Row<UsagePoint>) => (whole > 0 ? approximate(value(row.point)) / whole : null);
  const errorRate = (of: { errors: Exact; invocations: Exact }) => (Number(of.invocations) > 0 ? Number(of.errors) / Number(of.invocations) : null);
  const columns: Column<Row<UsagePoint>>[] = [
    {
      id: 'name',
      name: view.group.map(dimensionName).join(' · '),
      value: (row) => nameOf(row.members, row.other),
      cell: (row) => <GroupName {...{ view, onView, row }} color={colors.get(row.key) ?? (row.other ? OTHER : SMALLER)} />,
      total: 'in all',
    },
    { id: 'cost', name: 'Spend', numeric: true, value: (row) => row.point.costEstimateCents, cell: (row) => <Money cents={row.point.costEstimateCents} />, total: <Money cents={totals.costEstimateCents} /> },
    { id: 'share', name: `Share of ${view.measure === 'cost' ? 'spend' : view.measure}`, numeric: true, value: share, cell: (row) => <Share share={share(row)} />, total: percent(whole > 0 ? 1 : null) },
    { id: 'calls', name: 'Calls', numeric: true, value: (row) => row.point.invocations, cell: (row) => <Count value={row.point.invocations} />, total: <Count value={totals.invocations} /> },
    { id: 'input', name: 'Input tokens', numeric: true, value: (row) => row.point.inputTokens, cell: (row) => <Count value={row.point.inputTokens} />, total: <Count value={totals.inputTokens} /> },
    { id: 'output', name: 'Output tokens', numeric: true, value: (row) => row.point.outputTokens, cell: (row) => <Count value={row.point.outputTokens} />, total: <Count value={totals.outputTokens} /> },
    { id: 'rate', name: 'Error rate', numeric: true, value: (row) => errorRate(row.point), cell: (row) => <span title={`${count(row.point.errors)} errors`}>{percent(errorRate(row.point))}</span>, total: percent(errorRate(totals)) },
    { id: 'over', name: 'Over the window', cell: (row) => <Spark values={sparks.get(row.key) ?? []} /> },
  ];
  return (
    <Groups
      {...{ view, onView, groups, columns }}
      usual={`-${view.measure === 'tokens' ? 'input' : view.measure === 'errors' ? 'rate' : view.measure}`}
    />
  );
}

interface GroupsProps<Of> {
  view: View;
  onView: (view: View) => void;
  groups: Of[];
  columns: Column<Of>[];
  /** what it sorts by until a person chooses */
  usual: string;
}

/** A table of groups; all other stands last. */
export function Groups<Of extends { key: string; other: boolean }>({ view, onView, groups, columns, usual }: GroupsProps<Of>) {
  const title = `By ${view.group.map(dimensionName).join(' and ')}`;
  return (
    <Table
      title={groups.some((row) => row.other) ? `${title}: the ${view.top} largest and all other` : title}
      columns={columns}
      rows={groups}
      keyOf={(row) => row.key}
      isLast={(row) => row.other}
      sort={view.sort}
      usual={usual}
      onSort={(sort) => onView({ ...view, sort })}
    />
  );
}

export function Share({ share }: { share: number | null }) {
  return (
    <span class="share">
      <i class="bar" style={{ '--share': `${((share ?? 0) * 100).toFixed(1)}%` }} aria-hidden="true" />
      {percent(share)}
    </span>
  );
}

interface NameProps {
  view: View;
  onView: (view: View) => void;
  row: { members: (string | null)[]; other: boolean };
  color?: string;
}

/** A group's name; its values lead to the view of that group alone, an organisation to its own. */
export function GroupName({ view, row, color }: NameProps) {
  const swatch = color && <i class="swatch" style={{ background: color }} aria-hidden="true" />;
  if (row.other) return <span>{swatch} all other</span>;
  return (
    <span>
      {swatch}{' '}
      {row.members.map((value, index) => {
        const dimension = view.group[index] ?? '';
        const text = value === null ? '(none)' : value === '' ? '(empty)' : value;
        if (value === null) return <span class="none">{index > 0 ? ' · ' : ''}{text}</span>;
        const next = dimension === 'org' ? orgLink(view, value) : { ...view, at: '', filters: { ...view.filters, [member(dimension)]: [value] } };
        return (
          <>
            {index > 0 ? ' · ' : ''}
            <a href={writeAddress(next)} title={dimension === 'org' ? 'Show this organisation' : `Show ${text} alone`}>
              <bdi>{text}</bdi>
            </a>
          </>
        );
      })}
    </span>
  );
}

