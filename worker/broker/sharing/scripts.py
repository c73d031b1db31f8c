"""The Lua scripts of the fair queue. Redis runs each atomically, so no frame is lost or doubled.

A list's oldest frame is the last one, at index -1. A frame that was served ends with MARK, and is
not moved again; JSON ignores the space. redis-py sends a script by its digest.
"""

MARK = " "

KEEP_LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif holder and redis.call('PTTL', KEYS[1]) >= 0 then
  return 0
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
"""
"""KEYS: the lease. ARGV: holder, milliseconds. Takes or renews the lease if nobody else has
one that expires."""

END_LEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
"""
"""KEYS: the lease. ARGV: holder."""

READ_OLDEST = """
local mark, ignored = ARGV[1], tonumber(ARGV[2])
local max_frames, max_bytes, prefix = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local length = redis.call('LLEN', KEYS[1])
if length <= ignored then
  return {0, 0}
end
local found, bytes, offset = {0, 0}, 0, 0
while offset < length do
  if offset >= max_frames or bytes >= max_bytes then
    found[1] = 1
    break
  end
  local frame = redis.call('LINDEX', KEYS[1], -1 - offset)
  bytes = bytes + #frame
  if string.sub(frame, -#mark) == mark then
    found[2] = found[2] + 1
  else
    found[#found + 1] = offset
    found[#found + 1] = string.sub(frame, 1, prefix)
  end
  offset = offset + 1
end
return found
"""
"""KEYS: queue. ARGV: MARK, length that is ignored, most frames, most bytes, bytes of a prefix.

Returns 1 if there is more to read, else 0; the number of frames with MARK; then, for each other
frame, its offset from the oldest one, and its prefix.
"""

MOVE = """
local queue, index, tombstone, mark = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local max_shift = tonumber(ARGV[3])

local function frame_at(offset, prefix)
  local frame = offset >= 0 and redis.call('LINDEX', queue, -1 - offset)
  if frame and string.sub(frame, 1, #prefix) == prefix and string.sub(frame, -#mark) ~= mark then
    return frame
  end
end

local function succeeds(...)
  local result = redis.pcall(...)
  return not (type(result) == 'table' and result.err)
end

local newest, shift = tonumber(ARGV[#ARGV - 2]), 0
while not frame_at(newest - shift, ARGV[#ARGV]) do
  shift = shift + 1
  if shift > max_shift then
    return 0
  end
end
local moved = 0
for i = 4, #ARGV, 3 do
  local offset, lane = tonumber(ARGV[i]) - shift, KEYS[tonumber(ARGV[i + 1])]
  local frame = frame_at(offset, ARGV[i + 2])
  if frame and succeeds('SADD', index, string.sub(lane, #index + 2))
      and succeeds('LPUSH', lane, frame) then
    redis.call('LSET', queue, -1 - offset, tombstone)
    moved = moved + 1
  end
end
if moved > 0 then
  redis.call('LREM', queue, -moved, tombstone)
end
return moved
"""
"""KEYS: queue, index of lanes, lanes. ARGV: a unique text, MARK, largest shift, moves.

A move is the offset of a frame, the number of its lane's key, and its prefix. Workers may have
taken older frames since these offsets were read: the position of the newest frame shows how many. A
frame that is not where it is expected stays in the queue. Returns how many frames were moved.
"""

SERVE = """
local destination, index, mark = KEYS[1], KEYS[2], ARGV[1]
local room, message_cost = tonumber(ARGV[2]), tonumber(ARGV[3])
local times, served = {}, {}
for i = 3, #KEYS do
  times[i] = tonumber(ARGV[i + 1])
end
while room > 0 do
  local lane
  for i = 3, #KEYS do
    if times[i] and (not lane or times[i] < times[lane]) then
      lane = i
    end
  end
  if not lane then
    break
  end
  local frame = redis.pcall('RPOP', KEYS[lane])
  if type(frame) == 'string' then
    redis.call('LPUSH', destination, frame .. mark)
    times[lane] = times[lane] + #frame + message_cost
    served[#served + 1] = lane
    served[#served + 1] = #frame
    room = room - 1
  else
    times[lane] = nil
    redis.pcall('SREM', index, string.sub(KEYS[lane], #index + 2))
    served[#served + 1] = lane
    served[#served + 1] = 0
  end
end
return served
"""
"""KEYS: destination, index of lanes, lanes. ARGV: MARK, most frames, cost of one, times of lanes.

Serves frames of the lane with the smallest time, which then grows by the frame's cost. Returns the
number of the lane's key and the length of each served frame; a length of 0 is an empty lane.
"""
