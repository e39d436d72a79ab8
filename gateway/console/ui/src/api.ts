/** Calls of the API on the page's own origin, and what is known of a refusal. */

import { parseExact, type Exact } from './exact.ts';

export interface Fault {
  field: string;
  reason: string;
}

/** Why there is no answer, in the API's own words. status 0: nobody answered. */
export interface Problem {
  status: number;
  title: string;
  detail: string;
  faults: Fault[];
  retryAfter: number | null;
  requestId: string | null;
}

export class Refused extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

export interface Sums {
  invocations: Exact;
  errors: Exact;
  inputTokens: Exact;
  outputTokens: Exact;
  costEstimateCents: Exact;
  cachedInputTokens: Exact;
  cacheWriteInputTokens: Exact;
  reasoningTokens: Exact;
}

/** The members of a group stand beside its numbers, under the event's names. */
export interface Group {
  bucketStart: string;
  other?: true;
}

export type UsagePoint = Sums & Group;

export interface Freshness {
  status: 'fresh' | 'stale' | 'delayed' | 'unknown';
  lagSeconds: number | null;
  lastEventAt: string | null;
  lastRollupAt: string | null;
}

export interface Answer<Point, Totals> {
  start: string;
  end: string;
  granularity: string;
  series: Point[];
  totals: Totals;
  completeSince?: string;
  detailsCompleteSince?: string;
  previous?: { start: string; end: string; totals: Totals };
}

export type Usage = Answer<UsagePoint, Sums> & { freshness: Freshness };

export interface Percentiles {
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface Outcomes {
  invocations: number;
  errors: number;
  errorRate: number | null;
  latencyMs: Percentiles;
  errorsByStatus: { error: number; timeout: number; throttled: number };
  errorCodes: { errorCode: string; count: number }[] | null;
  timeToFirstTokenMs: Percentiles;
  outputTokensPerSecond: number | null;
}

export type ReliabilityPoint = Outcomes & Group;
export type Reliability = Answer<ReliabilityPoint, Outcomes>;

export interface Job {
  jobId: string;
  status: 'pending' | 'running' | 'succeeded' | 'failed' | 'expired';
  granularity: string;
  timeRange: { start: string; end: string };
  models: string[] | null;
  groupBy: string;
  timeZone: string;
  compression: string;
  createdAt: string;
  completedAt: string | null;
  expiresAt: string | null;
  rowsDone: number;
  rowCount: number | null;
  checksum: string | null;
  sizeBytes: number | null;
  dataAsOf: string | null;
  completeSince: string | null;
  requestedBy: string;
  error: string | null;
}

/** The API's root, beside the console's own folder. */
export const ROOT = '../v1';

/** A path of the API as an address that works outside of this page. */
export function absolute(path: string): string {
  return new URL(path, document.baseURI).href;
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, redirect: 'error', credentials: 'same-origin' });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    const detail = 'The gateway did not answer. It may be down, or the connection to it is.';
    throw new Refused({ status: 0, title: 'No answer', detail, faults: [], retryAfter: null, requestId: null });
  }
  if (!answer.ok) throw new Refused(await problemOf(answer));
  return answer;
}

async function problemOf(answer: Response): Promise<Problem> {
  const found: Problem = {
    status: answer.status,
    title: answer.statusText || `Status ${answer.status}`,
    detail: `The answer was ${answer.status}, without a reason.`,
    faults: [],
    retryAfter: Number(answer.headers.get('Retry-After')) || null,
    requestId: answer.headers.get('X-Request-ID'),
  };
  try {
    const said = (await answer.json()) as Record<string, unknown>;
    if (typeof said['title'] === 'string') found.title = said['title'];
    if (typeof said['detail'] === 'string') found.detail = said['detail'];
    if (Array.isArray(said['errors'])) found.faults = said['errors'] as Fault[];
  } catch {
    // A proxy's own page: its status is all there is.
  }
  return found;
}

/** Return a JSON answer with exact decimals. Throws Refused. */
export async function getJson<T>(path: string, signal: AbortSignal): Promise<T> {
  const answer = await ask(path, { signal, headers: { Accept: 'application/json' } });
  try {
    return parseExact(await answer.text()) as T;
  } catch (error) {
    if (signal.aborted) throw error;
    const detail = 'The answer ended before its end; the gateway or the connection failed half-way.';
    throw new Refused({ status: 0, title: 'Cut off', detail, faults: [], retryAfter: null, requestId: answer.headers.get('X-Request-ID') });
  }
}

/** Send JSON; return the JSON answer. Throws Refused. */
export async function postJson<T>(path: string, body: unknown): Promise<T> {
  const answer = await ask(path, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { Accept: 'application/json', 'Content-Type': 'application/json' },
  });
  return parseExact(await answer.text()) as T;
}

export interface Download {
  bytes: number;
  truncated: boolean;
}

/** Fetch CSV and hand it to the person as a file. progress: bytes so far. Throws Refused. */
export async function download(path: string, name: string, progress: (bytes: number) => void): Promise<Download> {
  const answer = await ask(path, { headers: { Accept: 'text/csv' } });
  const parts: BlobPart[] = [];
  let bytes = 0;
  const reader = answer.body?.getReader();
  for (;;) {
    const read = await reader?.read();
    if (!read || read.done) break;
    parts.push(read.value);
    bytes += read.value.byteLength;
    progress(bytes);
  }
  const address = URL.createObjectURL(new Blob(parts, { type: 'text/csv' }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  // The browser needs the address until it has begun.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  return { bytes, truncated: answer.headers.get('X-Truncated') === 'true' };
}
