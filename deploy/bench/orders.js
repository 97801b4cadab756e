// A steady rate of orders against the stack of docker-compose.yml, for k6: RATE a second, for SECONDS.
//
// ORDERS_HOST, PRODUCTS_HOST    the two APIs
// /run/secrets/api-token        a key, if the stack has keys; else empty
//
// It fails when an order is refused or late. Where the orders went: docker compose run --rm tools verify

import { check } from 'k6';
import http from 'k6/http';

const PRODUCTS = 100;
const token = open('/run/secrets/api-token').trim();
const headers = Object.assign(
    { 'Content-Type': 'application/json' },
    token ? { Authorization: `Bearer ${token}` } : {},
);

export const options = {
    scenarios: {
        orders: {
            executor: 'constant-arrival-rate',
            rate: Number(__ENV.RATE || 1000),
            timeUnit: '1s',
            duration: `${__ENV.SECONDS || 60}s`,
            preAllocatedVUs: 256,
            maxVUs: 1024,
        },
    },
    thresholds: { checks: ['rate==1'], http_req_duration: ['p(99)<500'], dropped_iterations: ['count==0'] },
    summaryTrendStats: ['med', 'p(90)', 'p(99)', 'max'],
};

export function setup() {
    const made = [];
    for (let number = 0; number < PRODUCTS; number += 1) {
        const product = JSON.stringify({ name: `Load ${number}`, price: 9.95, qty: 1000000 });
        const answer = http.post(`${__ENV.PRODUCTS_HOST}/products`, product, { headers });
        if (answer.status !== 201) throw new Error(`product_api answers ${answer.status}: ${answer.body}`);
        made.push(answer.json('id'));
    }
    return made;
}

export default function orders(products) {
    const productId = products[Math.floor(Math.random() * products.length)];
    const answer = http.post(`${__ENV.ORDERS_HOST}/api/v1/orders`, JSON.stringify({ productId, quantity: 1 }), { headers });
    check(answer, { accepted: ({ status }) => status === 202 });
}
