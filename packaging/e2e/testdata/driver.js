// Runs a server sample that is given as a file, with one sessionTokenObject from
// standard input, and prints what the sample's own HTTP library called back
// with. usage: node driver.js SAMPLE
const path = require('path');
const real = require('request');
let calls = 0;
require.cache[require.resolve('request')].exports = (options, callback) => real(options, (err, resp, body) => {
  calls++;
  console.log('RESULT ' + JSON.stringify({
    error: err ? String(err.code || err.message) : '', status: resp ? resp.statusCode : 0,
    object: body !== null && typeof body === 'object', body: body === undefined ? '' : JSON.stringify(body),
  }));
  callback(err, resp, body);
});
const sample = require(path.resolve(process.argv[2]));
const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));
(async () => {
  for (const body of input) { // one after the other: forever reuses the connection
    await new Promise(done => sample.humanAPIHandshake({body}, null, null, ok => { console.log('CALLBACK ' + ok); done(); }));
  }
  console.log('CALLS ' + calls);
  process.exit(0);
})();
