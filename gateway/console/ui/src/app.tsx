/** The page: its head, the view that the address names, and what it is asked with. */

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { Freshness, Reliability, Usage } from './api.ts';
import { isOrg, readAddress, writeAddress, type Page, type View } from './address.ts';
import { useAnswer, useDark, type Asked } from './hooks.ts';
import { CopyButton, DownloadButton } from './parts/actions.tsx';
import { CutControls, overWindow, WindowControls } from './parts/controls.tsx';
import { ExactFigures } from './parts/figures.tsx';
import { FreshnessLine, ProblemBox, Waiting } from './parts/states.tsx';
import { readPreferences, writePreferences, type Preferences } from './preferences.ts';
import { curl, pathOf, question } from './question.ts';
import { ExportsView } from './views/exports.tsx';
import { ReliabilityView } from './views/reliability.tsx';
import { UsageView } from './views/usage.tsx';
import { browserZone, presets } from './window.ts';

const TITLES: Record<Page, string> = { usage: 'Usage', reliability: 'Reliability', exports: 'Exports' };
const REFRESH_MS = 30_000;

function here(): View {
  return readAddress(location.hash, Date.now(), browserZone());
}

export function App() {
  const [view, setView] = useState(here);
  const [preferences, setPreferences] = useState(readPreferences);
  const [turn, setTurn] = useState(0);
  const dark = useDark(preferences.theme);

  useEffect(() => {
    history.replaceState(null, '', writeAddress(here())); // the whole of it, also where only a part was given
    const follow = () => setView(here());
    window.addEventListener('popstate', follow);
    window.addEventListener('hashchange', follow);
    return () => {
      window.removeEventListener('popstate', follow);
      window.removeEventListener('hashchange', follow);
    };
  }, []);

  const onView = useCallback((next: View) => {
    const address = writeAddress(next);
    if (address !== location.hash) history.pushState(null, '', address);
    setView(readAddress(address, Date.now(), browserZone()));
  }, []);

  useEffect(() => {
    document.documentElement.dataset['theme'] = preferences.theme;
    writePreferences(preferences);
  }, [preferences]);

  const title = `${TITLES[view.page]} of ${view.org === 'all' ? 'all organisations' : view.org}`;
  useEffect(() => {
    document.title = `${title} – Usage analytics`;
  }, [title]);

  useEffect(() => {
    if (!preferences.refresh) return undefined;
    const timer = setInterval(() => setTurn((turns) => turns + 1), REFRESH_MS);
    return () => clearInterval(timer);
  }, [preferences.refresh]);

  const props = { view, onView, turn, dark, onRetry: () => setTurn((turns) => turns + 1) };
  return (
    <ExactFigures.Provider value={preferences.exact}>
      <Head {...props} />
      <main id="main" tabIndex={-1}>
        <h1 class="hidden">{title}</h1>
        <WindowControls view={view} onView={onView} />
        {view.page === 'usage' && <UsagePage key={view.org} {...props} />}
        {view.page === 'reliability' && <ReliabilityPage key={view.org} {...props} />}
        {view.page === 'exports' && <ExportsPage key={view.org} {...props} />}
      </main>
      <Foot preferences={preferences} onPreferences={setPreferences} />
    </ExactFigures.Provider>
  );
}

interface PageProps {
  view: View;
  onView: (view: View) => void;
  onRetry: () => void;
  turn: number;
  dark: boolean;
}

/** Move the focus without changing the address, which holds the view. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

function Head({ view, onView, onRetry }: PageProps) {
  const to = (page: Page): View => {
    if (page === view.page) return view;
    const next = overWindow({ ...view, page, sort: '', at: '' }, view, true);
    // From months of spend to reliability, or back from hours: each begins with a window that suits it.
    if (page === 'exports') return next;
    const short = view.start.length > 10;
    const usual = presets(page).find((preset) => preset.id === '7d');
    return page === 'usage' && short && usual ? overWindow(next, usual.of(Date.now(), view.zone), false) : next;
  };
  return (
    <header>
      <a class="skip" href="#main" onClick={skip}>
        To the numbers
      </a>
      <p class="brand">
        <svg width="20" height="20" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
          <path d="M2 14V8h3v6zm4.5 0V2h3v12zM11 14V6h3v8z" fill="currentColor" />
        </svg>
        Usage analytics
      </p>
      <nav aria-label="Views">
        {(Object.keys(TITLES) as Page[]).map((page) => (
          <a href={writeAddress(to(page))} aria-current={page === view.page ? 'page' : undefined}>
            {TITLES[page]}
          </a>
        ))}
      </nav>
      <OrgChoice key={view.org} view={view} onView={onView} />
      <button type="button" onClick={onRetry}>
        Refresh
      </button>
    </header>
  );
}

function OrgChoice({ view, onView }: { view: View; onView: (view: View) => void }) {
  const [typed, setTyped] = useState(view.org === 'all' ? '' : view.org);
  const [wrong, setWrong] = useState(false);
  const choose = (event: Event) => {
    event.preventDefault();
    const org = typed.trim().toLowerCase();
    setWrong(!isOrg(org));
    if (isOrg(org)) onView({ ...view, org, group: view.org === 'all' ? ['model'] : view.group, filters: {}, at: '', sort: '' });
  };
  const all: View = { ...view, org: 'all', group: ['org'], filters: {}, at: '', sort: '' };
  return (
    <form class="org" onSubmit={choose}>
      <label>
        Organisation{' '}
        <input
          value={typed}
          placeholder={view.org === 'all' ? 'all of them' : ''}
          spellcheck={false}
          autocomplete="off"
          aria-invalid={wrong}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
      </label>
      <button type="submit">Show</button>
      {view.org !== 'all' && <a href={writeAddress(all)}>All organisations</a>}
      {wrong && <span role="alert">An organisation's id has 36 characters, such as 000a11ce-0000-4000-8000-000000000000.</span>}
    </form>
  );
}

function UsagePage({ view, onView, onRetry, turn, dark }: PageProps) {
  const path = question(view, 'usage');
  const whole = question(view, 'usage', { granularity: 'total', compare: true });
  const series = useAnswer<Usage>(path, turn);
  const sums = useAnswer<Usage>(whole, turn);
  const reliability = useAnswer<Reliability>(question(view, 'reliability', { granularity: 'total', group: [], compare: true }), turn);
  const problem = series.problem ?? sums.problem;
  const at = Math.min(series.at, sums.at);
  const shown = useShown(view, [series, sums], [path, whole]);
  return (
    <>
      <FreshnessLine freshness={series.data?.freshness ?? null} at={at} zone={view.zone} />
      <CutControls view={view} onView={onView} />
      <Answer problem={problem} parts={[series, sums]} {...{ view, onView, onRetry }}>
        {shown && <UsageView view={shown.view} {...{ onView, dark, reliability }} series={shown.data[0] as Usage} sums={shown.data[1] as Usage} />}
      </Answer>
      {!problem && <Take path={path} view={view} />}
    </>
  );
}

function ReliabilityPage({ view, onView, onRetry, turn, dark }: PageProps) {
  const path = question(view, 'reliability', { group: [] });
  const whole = question(view, 'reliability', { granularity: 'total', compare: true });
  const series = useAnswer<Reliability>(path, turn);
  const sums = useAnswer<Reliability>(whole, turn);
  const shown = useShown(view, [series, sums], [path, whole]);
  const { freshness, at } = useFreshness(view, turn);
  return (
    <>
      <FreshnessLine freshness={freshness} at={at} zone={view.zone} />
      <CutControls view={view} onView={onView} />
      <Answer problem={series.problem ?? sums.problem} parts={[series, sums]} {...{ view, onView, onRetry }}>
        {shown && <ReliabilityView view={shown.view} {...{ onView, dark, freshness }} series={shown.data[0] as Reliability} sums={shown.data[1] as Reliability} />}
      </Answer>
      {!series.problem && <Take path={path} view={view} />}
    </>
  );
}

function ExportsPage({ view, onView, turn }: PageProps) {
  const { freshness, at } = useFreshness(view, turn);
  return (
    <>
      <FreshnessLine freshness={freshness} at={at} zone={view.zone} />
      <ExportsView {...{ view, onView, turn }} />
    </>
  );
}

interface FreshnessAnswer {
  status: Freshness['status'];
  lagSeconds: number | null;
  asOf: string;
  entries: { lastEventAt: string; lastRollupAt: string | null }[];
}

function useFreshness(view: View, turn: number): { freshness: Freshness | null; at: number } {
  const all = view.org === 'all';
  const ofOrg = useAnswer<FreshnessAnswer>(all ? null : pathOf(view, 'freshness'), turn);
  const ofAll = useAnswer<Usage>(all ? question(view, 'usage', { granularity: 'total', group: [] }) : null, turn);
  if (all) return { freshness: ofAll.data?.freshness ?? null, at: ofAll.at };
  const found = ofOrg.data;
  if (!found) return { freshness: null, at: ofOrg.at };
  const newest = (times: (string | null)[]) => times.reduce<string | null>((most, time) => (time !== null && (most === null || time > most) ? time : most), null);
  return {
    freshness: {
      status: found.status,
      lagSeconds: found.lagSeconds,
      lastEventAt: newest(found.entries.map((entry) => entry.lastEventAt)),
      lastRollupAt: newest(found.entries.map((entry) => entry.lastRollupAt)),
    },
    at: Date.parse(found.asOf),
  };
}

/** The last view all of whose answers are there: two answers to different questions are never shown together. */
function useShown(view: View, parts: Asked<unknown>[], paths: string[]): { view: View; data: unknown[] } | null {
  const kept = useRef<{ view: View; data: unknown[] } | null>(null);
  if (parts.every((part, index) => part.data !== null && part.of === paths[index])) {
    kept.current = { view, data: parts.map((part) => part.data) };
  }
  return kept.current;
}

interface AnswerProps {
  problem: Asked<unknown>['problem'];
  parts: Asked<unknown>[];
  view: View;
  onView: (view: View) => void;
  onRetry: () => void;
  children: preact.ComponentChildren;
}

/** The answer, or why there is none. What was there before stays in sight, dimmed, while the next one is waited for. */
function Answer({ problem, parts, view, onView, onRetry, children }: AnswerProps) {
  const since = parts.reduce<number | null>((first, part) => part.waitingSince ?? first, null);
  return (
    <div class="answer" aria-busy={since !== null}>
      {since !== null && <Waiting since={since} />}
      {problem ? <ProblemBox {...{ problem, view, onView, onRetry }} /> : <div class={since === null ? '' : 'dimmed'}>{children}</div>}
    </div>
  );
}

/** Taking the view along. */
function Take({ path, view }: { path: string; view: View }) {
  const file = `${view.page}-${view.org}-${view.start.replace(':', '')}-${view.end.replace(':', '')}-${view.by}.csv`;
  return (
    <p class="row take">
      <DownloadButton path={path} file={file} name="CSV of this view" />
      <CopyButton text={curl(path, 'application/json')} name="Copy as curl" />
      <CopyButton text={location.href} name="Copy the link" />
    </p>
  );
}

function Foot({ preferences, onPreferences }: { preferences: Preferences; onPreferences: (preferences: Preferences) => void }) {
  return (
    <footer>
      <label class="check">
        <input type="checkbox" checked={preferences.exact} onChange={(event) => onPreferences({ ...preferences, exact: event.currentTarget.checked })} /> every
        digit
      </label>
      <label class="check">
        <input type="checkbox" checked={preferences.refresh} onChange={(event) => onPreferences({ ...preferences, refresh: event.currentTarget.checked })} /> refresh
        every 30 s
      </label>
      <label>
        Colours{' '}
        <select value={preferences.theme} onChange={(event) => onPreferences({ ...preferences, theme: event.currentTarget.value as Preferences['theme'] })}>
          <option value="auto">as the system</option>
          <option value="light">light</option>
          <option value="dark">dark</option>
        </select>
      </label>
      <a href="../v1/openapi.json">The API</a>
    </footer>
  );
}
