# Rebuilds fragments through liberasurecode's C API: a question per line on stdin, an
# answer per line on stdout, both JSON.
import base64, ctypes, json, sys, time

POINTER = ctypes.c_void_p


class Args(ctypes.Structure):  # struct ec_args
    _fields_ = [('k', ctypes.c_int), ('m', ctypes.c_int), ('w', ctypes.c_int), ('hd', ctypes.c_int),
                ('private1', ctypes.c_uint64 * 4), ('private2', POINTER), ('checksum', ctypes.c_int)]


def prepare(q):
    global lib, handle, calls, results, keep
    if handle:
        lib.liberasurecode_instance_destroy(handle)
    args = Args(k=q['k'], m=q['m'], hd=q['hd'], checksum=1)
    handle = lib.liberasurecode_instance_create(q['id'], ctypes.byref(args))
    if handle <= 0:
        handle = 0
        return {'refused': True}
    segment = base64.b64decode(q['segment'])
    data, parity, length = ctypes.POINTER(POINTER)(), ctypes.POINTER(POINTER)(), ctypes.c_uint64()
    rc = lib.liberasurecode_encode(handle, segment, ctypes.c_uint64(len(segment)),
                                   ctypes.byref(data), ctypes.byref(parity), ctypes.byref(length))
    if rc != 0:
        return {'error': 'encode: %d' % rc}
    n = length.value
    fragments = [data[i] for i in range(q['k'])] + [parity[i] for i in range(q['m'])]
    # A slot is as in imping: the payload on 64 bytes behind the header.
    slot = 128 + (n - 80 + 63) // 64 * 64
    use = q['use']
    memory = ctypes.create_string_buffer(q['stripes'] * len(use) * slot + 64)
    base = (ctypes.addressof(memory) + 63) // 64 * 64 + 48
    calls, keep = [], [memory]
    results = ctypes.create_string_buffer(n)
    for s in range(q['stripes']):
        at = [base + (s * len(use) + i) * slot for i in range(len(use))]
        for i, index in enumerate(use):
            ctypes.memmove(at[i], fragments[index], n)
        table = (POINTER * len(use))(*at)
        keep.append(table)
        calls.append([(ctypes.c_int(handle), table, ctypes.c_int(len(use)), ctypes.c_uint64(n),
                       ctypes.c_int(w), results) for w in q['want']])
    lib.liberasurecode_encode_cleanup(handle, data, parity)
    for call, lost in zip(calls[0], q['lost']):
        rc = lib.liberasurecode_reconstruct_fragment(*call)
        if rc != 0:
            return {'error': 'reconstruct: %d' % rc}
        if results.raw[80:] != base64.b64decode(lost):
            return {'error': 'liberasurecode and imping disagree'}
    return {}


def window(q):
    global at
    rebuild, stripes = lib.liberasurecode_reconstruct_fragment, 0
    start = time.thread_time_ns()
    while True:
        at = (at + 1) % len(calls)
        for call in calls[at]:
            if rebuild(*call) != 0:
                return {'error': 'reconstruct failed'}
        stripes += 1
        spent = time.thread_time_ns() - start
        if spent >= q['nanos']:
            return {'stripes': stripes, 'nanos': spent}


handle, at = 0, 0
for line in sys.stdin:
    q = json.loads(line)
    if q['do'] == 'hello':
        try:
            lib, answer = ctypes.CDLL('liberasurecode.so.1'), {}
        except OSError as e:
            answer = {'error': str(e)}
    else:
        answer = {'prepare': prepare, 'window': window}[q['do']](q)
    print(json.dumps(answer), flush=True)
