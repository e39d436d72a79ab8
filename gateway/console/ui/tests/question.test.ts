import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { advice, refusal } from '../src/advice.ts';
import { readAddress, type View } from '../src/address.ts';
import { curl, incident, mayFilter, question, regrouped } from '../src/question.ts';

const ORG = '000a11ce-0000-4000-8000-000000000000';

before(() => {
  (globalThis as { document?: unknown }).document = { baseURI: 'https://api.example/analytics/console/' };
});

function view(rest: string, page = 'usage'): View {
  return readAddress(`#/${page}?org=${ORG}&start=2026-11-01&end=2026-11-08&zone=Asia/Kolkata&${rest}`, 0, 'UTC');
}

test('a view asks the API for its window in instants, and for its cut', () => {
  const path = question(view('by=day&group=model,client&clientId=a b&top=5&measure=calls'), 'usage');
  assert.equal(
    path,
    `../v1/orgs/${ORG}/usage?start=2026-10-31T18%3A30%3A00Z&end=2026-11-07T18%3A30%3A00Z&granularity=day&timeZone=Asia%2FKolkata&groupBy=model%2Cclient&clientId=a+b&top=5&orderBy=invocations`,
  );
});

test('without groups there is no top, which the API would refuse', () => {
  assert.ok(!question(view('group='), 'usage').includes('top='));
  assert.ok(question(view('group='), 'usage').includes('groupBy=none'));
});

test('all organisations are asked of the platform', () => {
  const all = { ...view(''), org: 'all', filters: { orgId: [ORG] } };
  assert.ok(question(all, 'usage').startsWith('../v1/usage?'));
  assert.ok(question(all, 'usage').includes(`orgId=${ORG}`));
});

test('a command asks the same, whatever a value holds', () => {
  const command = curl(question(view("modelId=it's $(here)"), 'usage'), 'text/csv');
  assert.ok(command.startsWith("curl -s -H 'Accept: text/csv' 'https://api.example/analytics/v1/orgs/"));
  assert.ok(command.includes('it%27s+%24%28here%29'));
});

test('a spike leads to the raw events of its bucket', () => {
  const path = incident(view('by=hour&modelId=m', 'reliability'), '2026-11-01T09:00:00+05:30', 'error');
  assert.equal(path, `../v1/orgs/${ORG}/incidents/export?start=2026-11-01T03%3A30%3A00Z&end=2026-11-01T04%3A30%3A00Z&modelId=m&status=error`);
});

test('one dimension is filtered by at a time, and it is that of the groups', () => {
  assert.deepEqual(['model', 'client', 'actor', 'org'].map((name) => mayFilter(view('group=client'), name)), [true, true, false, false]);
  assert.equal(mayFilter(view('group=model&clientId=web'), 'actor'), false);
  assert.deepEqual(regrouped(view('group=client&clientId=web&modelId=m'), ['actor']).filters, { modelId: ['m'] });
});

const problem = { status: 400, title: '', detail: '', faults: [{ field: 'granularity', reason: 'too many' }], retryAfter: null, requestId: null };

test('a refusal comes with the view that would be answered', () => {
  const names = advice(problem, view('by=hour&group=actor')).map((each) => each.name);
  assert.ok(names.includes('Show by day'));
  const zone = advice({ ...problem, faults: [{ field: 'timeZone', reason: 'x' }] }, view(''));
  assert.equal(zone[0]?.view.zone, 'UTC');
  assert.deepEqual(advice({ ...problem, status: 503 }, view('')), []);
  const long = { ...view('', 'exports'), start: '2026-01-01', end: '2026-04-01' };
  const shorter = advice({ ...problem, faults: [{ field: 'timeRange.end', reason: 'x' }] }, long);
  assert.deepEqual(shorter.map((each) => [each.view.start, each.view.end]), [['2026-03-01', '2026-04-01']]);
});

test('each refusal says what to do', () => {
  for (const status of [401, 403, 404, 429, 503]) assert.notEqual(refusal({ ...problem, status }), '');
});
