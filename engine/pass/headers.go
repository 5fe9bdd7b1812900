package pass

import (
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"imping/engine/rebuild"
	"imping/netfast/ssync"
)

// putFields are the header fields of a PUT subrequest: all metadata of the .data file but
// the name, the length, which the subrequest states itself, and the ETag, which is the
// local archive's and which the receiver computes anew; with the target's fragment index
// (Swift: RebuildingECDiskFileStream and Sender.send_put).
func putFields(meta map[string]string, index int) []ssync.Field {
	return fields(meta, map[string]bool{"name": true, "Content-Length": true, "ETag": true, "Etag": true},
		map[string]string{rebuild.KeyFragIndex: strconv.Itoa(index)})
}

// postFields are those of a POST subrequest: all metadata of the .meta file but the name.
func postFields(meta map[string]string) []ssync.Field {
	return fields(meta, map[string]bool{"name": true}, nil)
}

func fields(meta map[string]string, skip map[string]bool, replace map[string]string) []ssync.Field {
	list := make([]ssync.Field, 0, len(meta))
	for key, value := range meta {
		if skip[key] {
			continue
		}
		if v, ok := replace[key]; ok {
			value = v
		}
		list = append(list, ssync.Field{Key: wire(key), Value: wire(value)})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list
}

// wire turns metadata as Python 3 keeps it on disk (the client's bytes, each taken for a
// Latin-1 character, in UTF-8) back into the client's bytes. The sender of 2.30.1 sends
// the UTF-8, which the receiver then encodes once more: metadata changed by a rebuild.
// What was not written that way goes as it is.
func wire(s string) string {
	ascii := true
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if ascii {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r > 0xff || (r == utf8.RuneError && n == 1) {
			return s
		}
		b.WriteByte(byte(r))
		i += n
	}
	return b.String()
}
