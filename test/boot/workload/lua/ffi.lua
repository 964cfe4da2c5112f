-- FFI: calls of C functions from traces, C data, callbacks into Lua, 64-bit integers.
local ffi = require("ffi")
ffi.cdef [[
struct point { int x; short y; double z; uint8_t name[4]; };
size_t strlen(const char *text);
long strtol(const char *text, char **end, int base);
int snprintf(char *out, size_t size, const char *format, ...);
int abs(int n);
void qsort(void *base, size_t count, size_t size, int (*compare)(const int *, const int *));
]]

local function calls(n)
    local buffer, sum = ffi.new("char[64]"), 0
    for i = 1, n do
        ffi.C.snprintf(buffer, 64, "%d:%s:%.3f", ffi.cast("int", i), "text", i / 3)
        sum = sum + tonumber(ffi.C.strlen(buffer)) + tonumber(ffi.C.strtol(buffer, nil, 10))
        sum = sum + ffi.C.abs(-i)
    end
    return sum
end

local function structures(n)
    local points, sum = ffi.new("struct point[?]", 16), 0
    for i = 0, n - 1 do
        local p = points[i % 16]
        p.x = p.x + i
        p.y = i * 37 % 65536 - 32768
        p.z = p.z / 2 + p.y
        p.name[i % 4] = i % 256
        sum = sum + p.x % 7 + p.y + p.name[0]
    end
    return sum, points[3].z
end

local function wide(n)
    local x = 0x123456789abcdefULL
    for i = 1, n do x = x * 6364136223846793005ULL + 1442695040888963407ULL + x / (i + 1) end
    return tostring(x), tostring(ffi.cast("int64_t", x) / 1000)
end

local function sorted(n)
    local numbers = ffi.new("int[?]", n)
    for i = 0, n - 1 do numbers[i] = i * 7919 % 1009 end
    local compare = ffi.cast("int (*)(const int *, const int *)",
        function(a, b) return a[0] < b[0] and -1 or a[0] > b[0] and 1 or 0 end)
    ffi.C.qsort(numbers, n, 4, compare)
    compare:free()
    local hash = 0
    for i = 0, n - 1 do hash = (hash * 31 + numbers[i]) % 1000003 end
    return hash
end

for round = 1, tonumber(arg[1]) do
    print("calls", calls(1000))
    print("structures", structures(5000))
    print("wide", wide(3000))
    print("sorted", sorted(150 + round))
end
