package pass

import (
	"sort"
	"strconv"

	"imping/engine/rebuild"
	"imping/io/diskfile"
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
		list = append(list, ssync.Field{Key: diskfile.Wire(key), Value: diskfile.Wire(value)})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list
}
