// Orders on a timetable, for k6; or, where there is no wrk, from clients that each wait for their answer.
//
// ORDERS_URL      where orders are posted
// ORDERS_BODIES   a file, one request body a line
// ORDERS_RATE     requests a second: open loop. 0: closed loop with ORDERS_CLIENTS connections
// ORDERS_SECONDS  for how long
// ORDERS_MOST     closed loop: end early after so many requests; 0: do not
// ORDERS_CLIENTS  how many connections there may be at once
// ORDERS_KEYED    not empty: each request has an Idempotency-Key of its own, a UUIDv7
// ORDERS_CANCELLED  the share of orders that their client cancels at once
// ORDERS_SUMMARY  where the figures go, as JSON
//
// Ids go to the console, which k6 writes to a file: the metrics system would keep a time series for each.

import exec from 'k6/execution';
import http from 'k6/http';
import { SharedArray } from 'k6/data';
import { Counter, Trend } from 'k6/metrics';

const rate = Number(__ENV.ORDERS_RATE);
const clients = Number(__ENV.ORDERS_CLIENTS);
const cancelled = Number(__ENV.ORDERS_CANCELLED || 0);
const most = Number(__ENV.ORDERS_MOST);
const duration = `${__ENV.ORDERS_SECONDS}s`;
const bodies = new SharedArray('bodies', () => open(__ENV.ORDERS_BODIES).split('\n').filter((line) => line));
const headers = { 'Content-Type': 'application/json' };

const fromDue = new Trend('from_due', true);
const moments = new Trend('moments');
const refused = new Counter('refused');
const unknown = new Counter('unknown');

const open_loop = { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration,
    preAllocatedVUs: clients, maxVUs: clients, gracefulStop: '10s' };
const closed_loop = { executor: 'constant-vus', vus: clients, duration, gracefulStop: '10s' };
const counted_loop = { executor: 'shared-iterations', vus: Math.min(clients, most), iterations: most,
    maxDuration: duration, gracefulStop: '10s' };

export const options = {
    scenarios: { orders: rate ? open_loop : most ? counted_loop : closed_loop },
    summaryTrendStats: ['min', 'med', 'p(90)', 'p(99)', 'max', 'count'],
    systemTags: ['status'],
    discardResponseBodies: false,
    batch: 1,
    noVUConnectionReuse: false,
};

function hex(bits) {
    return Math.floor(Math.random() * 2 ** bits).toString(16).padStart(bits / 4, '0');
}

function uuid7() {
    const ms = Date.now().toString(16).padStart(12, '0');
    return `${ms.slice(0, 8)}-${ms.slice(8)}-7${hex(12)}-8${hex(12)}-${hex(48)}`;
}

export default function () {
    const { startTime } = exec.scenario;
    const n = exec.scenario.iterationInTest;
    const begun = Date.now();
    // When it was due: the executor begins iterations in the order of their numbers.
    const late = rate ? Math.max(0, begun - (startTime + (n * 1000) / rate)) : 0;
    const params = { headers: __ENV.ORDERS_KEYED ? { ...headers, 'Idempotency-Key': uuid7() } : headers };
    const answer = http.post(__ENV.ORDERS_URL, bodies[n % bodies.length], params);
    fromDue.add(late + answer.timings.duration);
    moments.add(begun);
    moments.add(Date.now());
    if (answer.status < 200 || answer.status > 299) {
        refused.add(1);
        if (answer.status === 0 || answer.status > 499) unknown.add(1);  // 0: no answer came
        return;
    }
    // By hand: a regular expression costs this Javascript more than the request.
    for (let at = answer.body.indexOf('"id":"'); at >= 0; at = answer.body.indexOf('"id":"', at + 42)) {
        const id = answer.body.substr(at + 6, 36);
        console.log(id);
        if (Math.random() < cancelled) cancel(id, params);
    }
}

function cancel(id, params) {
    const answer = http.post(`${__ENV.ORDERS_URL}/${id}/cancel`, null, params);
    if (answer.status >= 200 && answer.status < 300) {
        console.log(`cancelled ${id}`);
        return;
    }
    refused.add(1);
    if (answer.status === 0 || answer.status > 499) unknown.add(1);
}

export function handleSummary(data) {
    return { [__ENV.ORDERS_SUMMARY]: JSON.stringify(data.metrics) };
}
