import assert from "node:assert/strict";
import { test } from "node:test";
import { KvRates, MeasuredParking } from "../../src/session/kv_rates.ts";

test("KvRates knows nothing before the first measurement, then what was measured", () => {
  const rates = new KvRates();
  assert.deepEqual([rates.prefillMs(10, 0), rates.restoreMs(10)], [undefined, undefined]);
  rates.recordPrefill(100, 0, 300);
  rates.recordRestore(1000, 2);
  assert.deepEqual([Math.round(rates.prefillMs(10, 0)!), rates.restoreMs(500)], [30, 1]);
});

test("MeasuredParking parks what is faster to restore than to evaluate", () => {
  const rates = new KvRates();
  const parking = new MeasuredParking(rates);
  assert.equal(parking.pays(1, 1e9), true, "to find out");
  rates.recordPrefill(100, 0, 300);
  rates.recordRestore(1000, 10);
  assert.equal(parking.pays(10, 2_000), true);
  assert.equal(parking.pays(10, 4_000), false);
});
