-- wrk's script. With a file named behind `--`, every body is compared with it; without, nothing is looked at while it is measured.
local expected, threads = nil, {}
compared, wrong = 0, 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  if args[1] then
    local file = assert(io.open(args[1], "rb"))
    expected = file:read("*a")
    file:close()
    response = function(status, headers, body)
      compared = compared + 1
      if status ~= 200 or body ~= expected then
        wrong = wrong + 1
      end
    end
  end
end

function done(summary, latency, requests)
  local all, bad = 0, 0
  for _, thread in ipairs(threads) do
    all = all + thread:get("compared")
    bad = bad + thread:get("wrong")
  end
  local e = summary.errors
  io.write(string.format(
    'softdpu-bench {"us":%d,"requests":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%d,"p99_us":%d,"compared":%d,"wrong":%d}\n',
    summary.duration, summary.requests, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), all, bad))
end
