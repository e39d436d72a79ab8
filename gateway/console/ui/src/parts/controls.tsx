/** The window, the zone, and what it is cut by. Each change is a new address. */

import { useId, useState } from 'preact/hooks';
import { dimensionOf, MEASURES, member, TOPS, type Measure, type View } from '../address.ts';
import { useAnswer, useSettled } from '../hooks.ts';
import { mayFilter, pathOf, regrouped } from '../question.ts';
import { addDays, addHours, browserZone, granularities, isLocal, presets, usualGranularity, utcText, zones, type Window } from '../window.ts';

export interface ControlProps {
  view: View;
  onView: (view: View) => void;
}

const NAMES: Record<string, string> = {
  org: 'organisation',
  model: 'model',
  client: 'client',
  actor: 'user',
  apiKey: 'key',
  provider: 'provider',
  operation: 'operation',
};

export function dimensionName(dimension: string): string {
  return NAMES[dimension] ?? dimension.replace(/^metadata\./, 'tag ');
}

/** A view over another window, by a granularity that fits it. */
export function overWindow(view: View, window: Window, keep: boolean): View {
  const next: View = { ...view, start: window.start, end: window.end, at: '' };
  const possible = granularities(view.page, window, view.zone);
  next.by = keep && possible.includes(view.by) ? view.by : usualGranularity(view.page, window, view.zone);
  return next;
}

export function WindowControls({ view, onView }: ControlProps) {
  const now = Date.now();
  const timed = view.start.length > 10 || view.end.length > 10;
  const [opened, setOpened] = useState(false);
  const known = opened ? zones() : ['UTC'];
  const usual = browserZone();
  const id = useId();
  const setWindow = (window: Window) => {
    if (isLocal(window.start) && isLocal(window.end) && window.start < window.end) onView(overWindow(view, window, true));
  };
  // A begin after the end takes the end along, and the other way round: else nothing would seem to happen.
  const shifted = (local: string, by: number) => (timed ? addHours(local, by, view.zone) : addDays(local, by));
  const setStart = (start: string) => {
    if (isLocal(start)) setWindow({ start, end: start < view.end ? view.end : shifted(start, 1) });
  };
  const setEnd = (end: string) => {
    if (isLocal(end)) setWindow({ start: view.start < end ? view.start : shifted(end, -1), end });
  };
  // People name the last day that is in; the address and the API the first that is not.
  const lastDay = addDays(view.end, -1);
  const withTime = (on: boolean) => {
    const window = on
      ? { start: `${view.start.slice(0, 10)}T00:00`, end: `${view.end.slice(0, 10)}T00:00` }
      : { start: view.start.slice(0, 10), end: view.end.endsWith('T00:00') ? view.end.slice(0, 10) : addDays(view.end, 1) };
    onView(overWindow(view, window, true));
  };
  return (
    <fieldset class="controls">
      <legend class="hidden">Window</legend>
      <div class="buttons" role="group" aria-label="Windows">
        {presets(view.page).map((preset) => {
          const window = preset.of(now, view.zone);
          const pressed = window.start === view.start && window.end === view.end;
          return (
            <button type="button" aria-pressed={pressed} onClick={() => onView(overWindow(view, window, false))}>
              {preset.name}
            </button>
          );
        })}
      </div>
      <label>
        From{' '}
        <input
          type={timed ? 'datetime-local' : 'date'}
          value={timed && view.start.length === 10 ? `${view.start}T00:00` : view.start}
          onChange={(event) => setStart(event.currentTarget.value)}
        />
      </label>
      <label>
        {timed ? 'until' : 'to'}{' '}
        <input
          type={timed ? 'datetime-local' : 'date'}
          value={timed ? (view.end.length === 10 ? `${view.end}T00:00` : view.end) : lastDay}
          onChange={(event) => {
            const { value } = event.currentTarget;
            if (value) setEnd(timed ? value : addDays(value, 1));
          }}
        />
      </label>
      <label class="check">
        <input type="checkbox" checked={timed} onChange={(event) => withTime(event.currentTarget.checked)} /> time of day
      </label>
      <label for={id}>
        Zone{' '}
        <select
          id={id}
          value={view.zone}
          onFocus={() => setOpened(true)}
          onPointerEnter={() => setOpened(true)}
          onChange={(event) => onView({ ...view, zone: event.currentTarget.value, at: '' })}
        >
          <option value={usual}>{usual} (yours)</option>
          {view.zone !== usual && !known.includes(view.zone) && <option value={view.zone}>{view.zone}</option>}
          {known
            .filter((name) => name !== usual)
            .map((name) => (
              <option value={name}>{name}</option>
            ))}
        </select>
      </label>
    </fieldset>
  );
}

const MEASURE_NAMES: Record<Measure, string> = { cost: 'spend', calls: 'calls', tokens: 'tokens', errors: 'errors' };

interface Dimensions {
  dimensions: { name: string; keepsHours: boolean; completeSince: string | null }[];
}

export function CutControls({ view, onView }: ControlProps) {
  const all = view.org === 'all';
  const kept = useAnswer<Dimensions>(all ? null : pathOf(view, 'dimensions'), 0);
  const dimensions = all
    ? ['client', 'actor', 'apiKey', 'provider', 'operation']
    : (kept.data?.dimensions.map((each) => each.name) ?? []);
  for (const each of view.group) if (each !== 'model' && each !== 'org' && !dimensions.includes(each)) dimensions.push(each);
  const groupings = [
    ...(all ? ['org', 'org,model'] : []),
    'model',
    ...dimensions.flatMap((name) => (all ? [name, `org,${name}`] : [name, `model,${name}`])),
    '',
  ];
  const chosen = view.group.join(',');
  if (!groupings.includes(chosen)) groupings.push(chosen);
  const [open, setOpen] = useState(() => !window.matchMedia('(max-width: 640px)').matches);
  const nameOf = (grouping: string) => (grouping ? grouping.split(',').map(dimensionName).join(' and ') : 'nothing');
  return (
    <details class="cut" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        By {view.by}, grouped by {nameOf(chosen)}, top {view.top}
        {Object.keys(view.filters).length > 0 ? ', filtered' : ''}: change
      </summary>
      <fieldset class="controls">
      <legend class="hidden">Cut</legend>
      <label>
        By{' '}
        <select value={view.by} onChange={(event) => onView({ ...view, by: event.currentTarget.value, at: '' })}>
          {granularities(view.page, view, view.zone).map((name) => (
            <option value={name}>{name}</option>
          ))}
        </select>
      </label>
      <label>
        Group by{' '}
        <select value={chosen} onChange={(event) => onView(regrouped(view, event.currentTarget.value.split(',').filter(Boolean)))}>
          {groupings.map((grouping) => (
            <option value={grouping}>{nameOf(grouping)}</option>
          ))}
        </select>
      </label>
      <label>
        {view.page === 'usage' ? 'Show' : 'Largest by'}{' '}
        <select value={view.measure} onChange={(event) => onView({ ...view, measure: event.currentTarget.value as Measure, sort: '' })}>
          {MEASURES.map((name) => (
            <option value={name}>{MEASURE_NAMES[name]}</option>
          ))}
        </select>
      </label>
      <label>
        Top{' '}
        <select value={String(view.top)} onChange={(event) => onView({ ...view, top: Number(event.currentTarget.value) })}>
          {[...new Set([...TOPS, view.top])]
            .sort((a, b) => a - b)
            .map((top) => (
              <option value={String(top)}>{top}</option>
            ))}
        </select>
      </label>
      <Filters view={view} onView={onView} dimensions={dimensions} />
      </fieldset>
    </details>
  );
}

interface Values {
  values: { value: string }[];
}

function Filters({ view, onView, dimensions }: ControlProps & { dimensions: string[] }) {
  const possible = [...(view.org === 'all' ? ['org'] : []), 'model', ...dimensions].filter((name) => mayFilter(view, name));
  const [chosen, setChosen] = useState('model');
  const [typed, setTyped] = useState('');
  const [wanted, setWanted] = useState(false);
  const list = useId();
  const dimension = possible.includes(chosen) ? chosen : 'model';
  const prefix = useSettled(typed, 200);
  const query = new URLSearchParams({ start: utcText(view.start, view.zone), end: utcText(view.end, view.zone), limit: '50' });
  if (prefix) query.set('prefix', prefix);
  const path = wanted && view.org !== 'all' ? `${pathOf(view, `dimensions/${encodeURIComponent(dimension)}/values`)}?${query.toString()}` : null;
  const values = useAnswer<Values>(path, 0);
  const add = (event: Event) => {
    event.preventDefault();
    if (!typed) return;
    const name = member(dimension);
    const before = view.filters[name] ?? [];
    setTyped('');
    if (!before.includes(typed)) onView({ ...view, at: '', filters: { ...view.filters, [name]: [...before, typed] } });
  };
  const remove = (name: string, value: string) => {
    const filters = { ...view.filters, [name]: (view.filters[name] ?? []).filter((each) => each !== value) };
    if (filters[name]?.length === 0) delete filters[name];
    onView({ ...view, at: '', filters });
  };
  return (
    <>
      <form class="filter" onSubmit={add} aria-label="Filter">
        <label>
          Only{' '}
          <select value={dimension} onChange={(event) => setChosen(event.currentTarget.value)}>
            {possible.map((name) => (
              <option value={name}>{dimensionName(name)}</option>
            ))}
          </select>
        </label>
        <input
          aria-label={`Value of ${dimensionName(dimension)}`}
          list={list}
          value={typed}
          autocomplete="off"
          maxLength={200}
          placeholder="type a value"
          onFocus={() => setWanted(true)}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
        <datalist id={list}>
          {values.data?.values.map((each) => (
            <option value={each.value} />
          ))}
        </datalist>
        <button type="submit" disabled={!typed}>
          Add
        </button>
      </form>
      {Object.keys(view.filters).length > 0 && (
        <ul class="chips" aria-label="Filters">
          {Object.entries(view.filters).flatMap(([name, given]) =>
            given.map((value) => (
              <li>
                <button type="button" onClick={() => remove(name, value)} title={`Remove ${value}`}>
                  <span class="hidden">Remove the filter </span>
                  {dimensionName(dimensionOf(name))}: <bdi>{value || '(empty)'}</bdi> <span aria-hidden="true">✕</span>
                </button>
              </li>
            )),
          )}
        </ul>
      )}
    </>
  );
}
