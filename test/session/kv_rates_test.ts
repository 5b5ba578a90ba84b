import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { KvRates, MeasuredParking } from "../../src/session/kv_rates.ts";

describe("KvRates", () => {
  test("knows nothing before the first measurement, then its rate", () => {
    const rates = new KvRates();
    assert.deepEqual([rates.prefillMs(10), rates.restoreMs(10)], [undefined, undefined]);
    rates.recordPrefill(100, 300);
    rates.recordRestore(1000, 2);
    assert.deepEqual([rates.prefillMs(10), rates.restoreMs(500)], [30, 1]);
  });

  test("a long prefill says more than a short one, a late one more than an early one", () => {
    const rates = new KvRates();
    rates.recordPrefill(1000, 3000);
    rates.recordPrefill(2, 20);
    assert.ok(rates.prefillMs(1000)! < 3100);
    for (let n = 0; n < 20; n++) rates.recordPrefill(100, 100);
    assert.ok(Math.abs(rates.prefillMs(1000)! - 1000) < 10);
  });
});

test("MeasuredParking parks what is faster to restore than to evaluate", () => {
  const rates = new KvRates();
  const parking = new MeasuredParking(rates);
  assert.equal(parking.pays(1, 1e9), true, "to find out");
  rates.recordPrefill(100, 300);
  rates.recordRestore(1000, 10);
  assert.equal(parking.pays(10, 2_000), true);
  assert.equal(parking.pays(10, 4_000), false);
});
