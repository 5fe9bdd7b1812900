package codec

// Stripe is what all fragments of one segment have in common, and a rebuilt one gets.
type Stripe struct {
	Segment        int    // bytes of the segment, without padding
	ChecksumType   byte   // whether payloads have a checksum
	BackendVersion uint32 // of most
	LibecVersion   uint32 // the lowest (rule 8)
}

// Fault is what is wrong with one fragment of a stripe.
type Fault struct {
	Fragment int // which of those given, not its index
	Err      error
}

// CheckStripe reads and proves the headers of some fragments of one segment, each header and
// payload: that each is what indexes says (with nil: any one, but no two the same), of
// the scheme's backend, of a segment of that many bytes (with -1: of the length that most
// of them name), as long as that makes it, and that its payload has its checksum, if
// there is one. Those that fail are named; what the others have in common is returned.
// Fragments may differ in backend version and checksum type, as liberasurecode lets them:
// the rebuilt one gets what most of them have, the code's own or the lower one if it is a draw.
// headers, as many as fragments, are written to. Without a fault it allocates nothing.
func (c *Code) CheckStripe(fragments [][]byte, indexes []int, segment int, headers []Header) (Stripe, []Fault) {
	var faults []Fault
	var seen Set
	bad := func(i int, err error) {
		faults = append(faults, Fault{i, err})
		headers[i].LibecVersion = 0 // takes no part in what follows; no header that was read has it
	}
	model, alike := -1, true // the first good fragment; whether all that are good have its header, but for the index
	for i, f := range fragments {
		h := &headers[i]
		var err error
		sibling := model >= 0 && headers[model].isSibling(fragments[model], f)
		if sibling {
			*h = headers[model]
			h.Index = int(f[offIndex])
		} else {
			*h, err = ParseHeader(f)
		}
		switch {
		case err != nil:
		case indexes != nil && h.Index != indexes[i]:
			err = headerErrorf("index %d, want %d", h.Index, indexes[i])
		case segment >= 0 && int64(h.OrigDataSize) != int64(segment):
			err = headerErrorf("segment of %d bytes, want %d", h.OrigDataSize, segment)
		case indexes == nil && seen.Has(h.Index):
			err = headerErrorf("index %d, which another fragment has", h.Index)
		default:
			if !sibling || h.Index >= c.N() {
				err = c.CheckHeader(h)
			}
			if err == nil {
				err = h.CheckPayload(f[HeaderSize:])
			}
		}
		if err != nil {
			bad(i, err)
			continue
		}
		if model < 0 {
			model = i
		} else if !sibling {
			alike = false
		}
		if indexes == nil {
			seen = seen.With(h.Index)
		}
	}
	if alike && model >= 0 {
		h := &headers[model]
		return Stripe{int(h.OrigDataSize), h.ChecksumType, h.BackendVersion, h.LibecVersion}, faults
	}
	if segment < 0 {
		size, draw := most(headers, func(h *Header) uint32 { return h.OrigDataSize }, 0)
		for i := range headers {
			switch h := &headers[i]; {
			case h.LibecVersion == 0:
			case draw:
				bad(i, headerErrorf("segment of %d bytes, and as many other fragments say otherwise", h.OrigDataSize))
			case h.OrigDataSize != size:
				bad(i, headerErrorf("segment of %d bytes, most other fragments say %d", h.OrigDataSize, size))
			}
		}
		segment = int(size)
	}
	s := Stripe{Segment: segment}
	s.BackendVersion, _ = most(headers, func(h *Header) uint32 { return h.BackendVersion }, c.backend.version)
	checksum, _ := most(headers, func(h *Header) uint32 { return uint32(h.ChecksumType) }, ChecksumNone)
	s.ChecksumType = byte(checksum)
	for i := range headers {
		if v := headers[i].LibecVersion; v != 0 && (s.LibecVersion == 0 || v < s.LibecVersion) {
			s.LibecVersion = v
		}
	}
	return s, faults
}

// most returns the value that most of the headers have, and whether another is as
// frequent: then the preferred one, if it is one of them, else the one met first.
func most(headers []Header, value func(*Header) uint32, preferred uint32) (best uint32, draw bool) {
	count := 0
	for i := range headers {
		if headers[i].LibecVersion == 0 {
			continue
		}
		v, n := value(&headers[i]), 0
		for j := range headers {
			if headers[j].LibecVersion != 0 && value(&headers[j]) == v {
				n++
			}
		}
		switch {
		case n > count:
			best, count, draw = v, n, false
		case n == count && v != best:
			draw = true
			if v == preferred {
				best = v
			}
		}
		if n == len(headers) {
			break // all agree
		}
	}
	return best, draw
}

// Seal writes the header of a rebuilt fragment, whose payload is already behind it, with
// checksums of the given flavour.
func (c *Code) Seal(fragment []byte, index int, s Stripe, crc CRC) {
	h := c.Header(index, s.Segment)
	h.ChecksumType, h.BackendVersion, h.LibecVersion = s.ChecksumType, s.BackendVersion, s.LibecVersion
	if h.ChecksumType == ChecksumCRC32 {
		h.Checksum = crc.Sum(fragment[HeaderSize:])
	}
	h.Put(fragment, crc)
}
