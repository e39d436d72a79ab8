/** What is shown where there is no answer yet, none at all, or nothing in it. */

import type { Freshness, Problem } from '../api.ts';
import { advice, refusal } from '../advice.ts';
import type { View } from '../address.ts';
import { age, instantName } from '../format.ts';
import { useNow } from '../hooks.ts';
import { CopyButton } from './actions.tsx';

/** That something is waited for, and for how long when it takes longer. */
export function Waiting({ since }: { since: number }) {
  const now = useNow(500);
  const seconds = Math.floor((now - since) / 1000);
  return (
    <div class="waiting" role="status">
      <progress aria-label="Waiting for the answer" />
      <span>{seconds < 2 ? 'Asking …' : `Still asking, ${seconds} s. Long windows take longer; answers end after 30 s at most.`}</span>
    </div>
  );
}

interface ProblemProps {
  problem: Problem;
  view: View;
  onView: (view: View) => void;
  onRetry: () => void;
}

/** A refusal in the API's own words, and what can be done about it. */
export function ProblemBox({ problem, view, onView, onRetry }: ProblemProps) {
  const mayRetry = problem.status === 0 || problem.status === 429 || problem.status >= 500 || problem.status === 401;
  const offers = advice(problem, view);
  return (
    <div class="problem" role="alert">
      <h2>{problem.status === 401 ? 'Not signed in' : problem.status === 403 ? 'No right to see this' : problem.status === 400 ? 'This cannot be asked' : problem.title}</h2>
      <p>
        <bdi>{problem.detail}</bdi>
      </p>
      {problem.faults.length > 1 && (
        <ul>
          {problem.faults.map((fault) => (
            <li>
              <bdi>
                {fault.field} {fault.reason}
              </bdi>
            </li>
          ))}
        </ul>
      )}
      {refusal(problem) && <p>{refusal(problem)}</p>}
      <p class="row">
        {mayRetry && (
          <button type="button" onClick={onRetry}>
            Try again{problem.retryAfter ? ` (it asks for ${problem.retryAfter} s)` : ''}
          </button>
        )}
        {offers.map((offer) => (
          <button type="button" onClick={() => onView(offer.view)}>
            {offer.name}
          </button>
        ))}
      </p>
      {problem.requestId && <p class="fine">Request {problem.requestId}: the log knows it by this id.</p>}
    </div>
  );
}

const NAMES = { fresh: 'Up to date', stale: 'Behind', delayed: 'Far behind', unknown: 'No events yet' };

/** How far the numbers lag behind the events, and how old the answer is. */
export function FreshnessLine({ freshness, at, zone }: { freshness: Freshness | null; at: number; zone: string }) {
  const now = useNow(1000);
  if (!freshness) return <p class="freshness">Freshness: not known here</p>;
  const { status, lagSeconds, lastEventAt, lastRollupAt } = freshness;
  const asOf = at - (lagSeconds ?? 0) * 1000;
  return (
    <p class={`freshness ${status}`}>
      <i class="dot" aria-hidden="true" />
      <strong>{NAMES[status]}</strong>
      {status !== 'unknown' && (
        <>
          {' '}
          · as of <time title={instantName(asOf, zone)}>{instantName(asOf, zone)}</time> ({age((now - asOf) / 1000)} ago)
          {lastEventAt && (
            <>
              {' '}
              · newest event <time title={instantName(lastEventAt, zone)}>{age((now - Date.parse(lastEventAt)) / 1000)} ago</time>
            </>
          )}
          {(status === 'stale' || status === 'delayed') && (
            <span class="lag">
              {' '}
              · Events received in the last {age(lagSeconds ?? 0)} are not in these numbers yet: no rollup worker has added them
              {lastRollupAt ? ` since ${instantName(lastRollupAt, zone)}` : ' so far'}. Nothing is lost; they come in by themselves when it
              runs again.
            </span>
          )}
        </>
      )}
    </p>
  );
}

const FIRST_EVENT = `pip install pika
python3 - <<'END'
import datetime, json, uuid, pika
event = {"eventId": str(uuid.uuid4()), "orgId": "ORG",
         "occurredAt": datetime.datetime.now(datetime.UTC).isoformat(),
         "modelId": "my-model", "status": "success", "latencyMs": 412,
         "inputTokens": 2011, "outputTokens": 734, "costEstimateCents": 0.063195}
channel = pika.BlockingConnection(pika.URLParameters("RABBITMQ_URL")).channel()
channel.confirm_delivery()
channel.basic_publish("analytics.usage", "usage", json.dumps(event))
END`;

/** An organisation that has never sent an event. */
export function EmptyOrg({ org }: { org: string }) {
  const text = FIRST_EVENT.replace('ORG', org);
  return (
    <section class="empty">
      <h2>No events yet</h2>
      <p>
        This organisation has no events. Publish one for each call of a model; it shows here within seconds. Put your broker's address for{' '}
        <code>RABBITMQ_URL</code>:
      </p>
      <pre tabIndex={0} aria-label="How to publish the first event">
        {text}
      </pre>
      <CopyButton text={text} name="Copy the commands" />
      <p class="fine">
        <code>POST /analytics/v1/events/validate</code> says what is wrong with an event before you publish it. The API's description has every field.
      </p>
    </section>
  );
}

/** An organisation with events, but none in the window. */
export function EmptyWindow({ lastEventAt, zone, onShow }: { lastEventAt: string | null; zone: string; onShow: (instant: string) => void }) {
  return (
    <section class="empty">
      <h2>No calls in this window</h2>
      {lastEventAt ? (
        <p>
          The newest event is of {instantName(lastEventAt, zone)}.{' '}
          <button type="button" onClick={() => onShow(lastEventAt)}>
            Show that day
          </button>
        </p>
      ) : (
        <p>Choose another window, or take a filter away.</p>
      )}
    </section>
  );
}

/** What an answer says it lacks. */
export function Incomplete({ since, what, zone }: { since: string | undefined; what: string; zone: string }) {
  if (!since) return null;
  return (
    <p class="notice">
      {what} are complete since {instantName(since, zone)}. What happened before is not in them.
    </p>
  );
}
