package policy

import (
	"bytes"
	"fmt"
	"reflect"
)

// Differs says in which respect two swift.conf files would make daemons disagree about
// where objects lie or how they are coded; "" when in none (rule 34).
func (s *Swift) Differs(o *Swift) string {
	switch {
	case !bytes.Equal(s.HashPrefix, o.HashPrefix):
		return "swift_hash_path_prefix"
	case !bytes.Equal(s.HashSuffix, o.HashSuffix):
		return "swift_hash_path_suffix"
	case len(s.Policies) != len(o.Policies):
		return fmt.Sprintf("%d and %d storage policies", len(s.Policies), len(o.Policies))
	}
	for i, p := range s.Policies {
		if !reflect.DeepEqual(p, o.Policies[i]) {
			return fmt.Sprintf("storage-policy:%d", p.Index)
		}
	}
	return ""
}
