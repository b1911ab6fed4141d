// node client.mjs BASE OUTPUT [TEST-ID]: runs the suite, or one test with its messages shown, and writes
// [{id, suite, name, kind, outcome, detail}] to OUTPUT.
//
// What applies to a shared cache is tests/index.mjs without the browser_only tests. The suite's cli.mjs adds
// Surrogate-Control, a W3C note that no RFC took over: it is left out. Outcomes are those of the suite's own
// display.mjs, where a test whose dependency did not pass does not pass either.

import fs from 'node:fs'

import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import { determineTestResult } from 'http-cache-tests/lib/display.mjs'
import suites from 'http-cache-tests/tests/index.mjs'
import fetch from 'node-fetch'

const OUTCOMES = {
  '-': 'untested',
  '✅': 'pass',
  '⛔️': 'fail',
  '⚠️': 'optional_fail',
  Y: 'yes',
  N: 'no',
  '🔹': 'setup_fail',
  '⁉️': 'harness_fail',
  '⚪️': 'dependency_fail',
  '↻': 'retry'
}

const [base, output, only] = process.argv.slice(2)
const chosen = suites
  .map(suite => ({ ...suite, tests: suite.tests.filter(test => !test.browser_only && (!only || test.id === only)) }))
  .filter(suite => suite.tests.length > 0)
if (chosen.length === 0) throw new Error(`No applicable test has the id ${only}`)
if (only) chosen[0].tests[0].dump = true

await runTests(chosen, fetch, false, base)

const results = getResults()
const rows = chosen.flatMap(suite => suite.tests.map(test => ({
  id: test.id,
  suite: suite.id,
  name: test.name,
  kind: test.kind ?? 'required',
  outcome: OUTCOMES[determineTestResult(suites, test.id, results, !only)[2]],
  detail: results[test.id] === true ? '' : results[test.id].join(': ')
})))
fs.writeFileSync(output, JSON.stringify(rows, null, 1))
