package pass

import (
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/netfast/ssync"
)

// pointSource is what a point repair offers and sends: a reference that need not lie on
// a local disk.
type pointSource struct {
	offer   ssync.Offer
	deleted *diskfile.DeletedError // the reference is a tombstone
	object  *rebuild.Object
	put     func(index int) []ssync.Field // header of the archive of an index
	post    []ssync.Field                 // of the .meta file; nil: none
}
