package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"imping/swift/conf"
)

// DefaultPath is where Swift's daemons look for swift.conf, whatever their swift_dir says.
const DefaultPath = "/etc/swift/swift.conf"

const (
	legacyName     = "Policy-0"
	defaultSegment = 1 << 20
	// maxFragments is liberasurecode's limit on data and parity fragments together.
	maxFragments = 32
)

// Load reads swift.conf and refuses what Swift's daemons refuse to start with: no salt, a
// broken file, policies that contradict themselves or each other. The salts are the bytes
// of the file. Swift: common/utils.py, validate_hash_conf; common/storage_policy.py,
// reload_storage_policies.
func Load(path string) (*Swift, error) {
	s := &Swift{Path: path}
	if err := s.loadHash(); err != nil {
		return nil, err
	}
	if err := s.loadConstraints(); err != nil {
		return nil, err
	}
	if err := s.loadPolicies(); err != nil {
		return nil, fmt.Errorf("Invalid Storage Policy Configuration in %s (%w)", path, err) //lint:ignore ST1005 Swift's words
	}
	return s, nil
}

func (s *Swift) loadHash() error {
	ini, err := conf.ReadINI(s.Path, conf.Hash)
	if err != nil {
		return fmt.Errorf("cannot read swift.conf: %w", err)
	}
	for option, salt := range map[string]*[]byte{
		"swift_hash_path_prefix": &s.HashPrefix,
		"swift_hash_path_suffix": &s.HashSuffix,
	} {
		value, _, err := ini.Get("swift-hash", option)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", s.Path, err)
		}
		for _, char := range value { // read as Latin-1: a character is a byte
			*salt = append(*salt, byte(char))
		}
	}
	if len(s.HashPrefix) == 0 && len(s.HashSuffix) == 0 {
		return fmt.Errorf("[swift-hash]: both swift_hash_path_suffix and swift_hash_path_prefix are missing from %s", s.Path)
	}
	return nil
}

func (s *Swift) loadPolicies() error {
	dialect := conf.Policies
	// Swift on Python 3 dies of a swift.conf that is not UTF-8, although it takes such
	// salts; Python 2 lived with both. Policies are ASCII, so nothing is misread.
	if data, err := os.ReadFile(s.Path); err == nil && !utf8.Valid(data) {
		dialect.Latin1 = true
	}
	ini, err := conf.ReadINI(s.Path, dialect)
	if err != nil {
		return err
	}
	for _, section := range ini.Sections() {
		index, ok := strings.CutPrefix(section, "storage-policy:")
		if !ok {
			continue
		}
		items, err := ini.Items(section)
		if err != nil {
			return err
		}
		p, err := s.parse(index, items)
		if err != nil {
			return fmt.Errorf("section [%s]: %w", section, err)
		}
		if err := s.add(p); err != nil {
			return fmt.Errorf("section [%s]: %w", section, err)
		}
	}
	return s.complete()
}

// add refuses a policy that clashes with an earlier one.
func (s *Swift) add(p *Policy) error {
	if s.ByIndex(p.Index) != nil {
		return fmt.Errorf("index %d is that of another policy too", p.Index)
	}
	for _, name := range append([]string{p.Name}, p.Aliases...) {
		if other := s.ByName(name); other != nil {
			return fmt.Errorf("name %q is that of policy %s too, upper and lower case are the same", name, other)
		}
	}
	if other := s.Default(); p.Default && other != nil {
		return fmt.Errorf("policy %s is the default already", other)
	}
	s.Policies = append(s.Policies, p)
	return nil
}

// complete adds what need not be written and refuses what is missing. Swift:
// StoragePolicyCollection._validate_policies.
func (s *Swift) complete() error {
	if len(s.Policies) == 0 {
		s.Policies = []*Policy{{Name: legacyName, Type: Replication}}
	}
	if s.ByIndex(0) == nil {
		return errors.New("there must be a policy with index 0")
	}
	if !slices.ContainsFunc(s.Policies, func(p *Policy) bool { return !p.Deprecated }) {
		return errors.New("there must be a policy that is not deprecated")
	}
	if s.Default() == nil {
		if len(s.Policies) > 1 {
			return errors.New("one of the policies must be the default")
		}
		s.Policies[0].Default = true
	}
	slices.SortFunc(s.Policies, func(a, b *Policy) int { return cmp.Compare(a.Index, b.Index) })
	return nil
}

// parse reads one section. Swift: BaseStoragePolicy.from_config and the constructors.
func (s *Swift) parse(index string, items []conf.Item) (*Policy, error) {
	p := &Policy{Type: Replication}
	options := map[string]string{}
	for _, item := range items {
		options[item.Option] = item.Value
	}
	if kind, ok := options["policy_type"]; ok {
		p.Type = Type(kind)
		delete(options, "policy_type")
	}
	known := []string{"name", "aliases", "default", "deprecated", "diskfile_module"}
	switch p.Type {
	case Replication:
	case ErasureCoding:
		known = append(known, "ec_type", "ec_num_data_fragments", "ec_num_parity_fragments", "ec_object_segment_size", "ec_duplication_factor")
	default:
		return nil, fmt.Errorf("policy_type = %.80q: must be %s or %s", p.Type, Replication, ErasureCoding)
	}
	for _, option := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains(known, option) {
			return nil, fmt.Errorf("a %s policy has no option %.80q (options of [DEFAULT] count too)", p.Type, option)
		}
	}
	var ok bool
	if p.Index, ok = conf.ParseInt(index); !ok || p.Index < 0 {
		return nil, fmt.Errorf("index %.80q: must be an integer >= 0", index)
	}
	if err := p.setNames(options["name"], options["aliases"]); err != nil {
		return nil, err
	}
	p.Default, p.Deprecated = isTrue(options["default"]), isTrue(options["deprecated"])
	if p.Default && p.Deprecated {
		return nil, errors.New("a deprecated policy can not be the default")
	}
	if p.Type == Replication {
		return p, nil
	}
	return p, s.parseEC(p, options)
}

// isTrue is Swift's config_true_value.
func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "true", "1", "yes", "on", "t", "y":
		return true
	}
	return false
}

func (p *Policy) setNames(name, aliases string) error {
	if err := p.checkName(name); err != nil {
		return err
	}
	p.Name = name
	for _, alias := range conf.List(aliases) {
		if alias == name {
			continue
		}
		if err := p.checkName(alias); err != nil {
			return err
		}
		p.Aliases = append(p.Aliases, alias)
	}
	return nil
}

func (p *Policy) checkName(name string) error {
	if name == "" {
		return errors.New("the name is missing")
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return fmt.Errorf("name %.80q: must have only letters, digits and \"-\", for names stand in HTTP headers", name)
		}
	}
	if strings.EqualFold(name, legacyName) && p.Index != 0 {
		return fmt.Errorf("name %q: only the policy with index 0 may have it", name)
	}
	if strings.EqualFold(name, p.Name) || slices.ContainsFunc(p.Aliases, func(alias string) bool {
		return strings.EqualFold(alias, name)
	}) {
		return fmt.Errorf("name %q is given twice, upper and lower case are the same", name)
	}
	return nil
}

// parseEC reads the options of an erasure-coded policy. Swift: ECStoragePolicy.
func (s *Swift) parseEC(p *Policy, options map[string]string) error {
	p.ECType = options["ec_type"]
	if _, ok := ecTypes[p.ECType]; !ok {
		return fmt.Errorf("ec_type = %.80q: must be one of %s", p.ECType, strings.Join(slices.Sorted(maps.Keys(ecTypes)), ", "))
	}
	p.SegmentSize, p.Duplication = defaultSegment, 1
	for _, o := range []struct {
		name     string
		value    *int
		required bool
	}{
		{"ec_num_data_fragments", &p.Data, true},
		{"ec_num_parity_fragments", &p.Parity, true},
		{"ec_object_segment_size", &p.SegmentSize, false},
		{"ec_duplication_factor", &p.Duplication, false},
	} {
		value, given := options[o.name]
		if !given && !o.required {
			continue
		}
		n, ok := conf.ParseInt(value)
		if !ok || n < 1 {
			return fmt.Errorf("%s = %.80q: must be an integer >= 1", o.name, value)
		}
		*o.value = n
	}
	if p.ECType == "isa_l_rs_vand" && p.Parity >= 5 {
		// Swift looks at the words of the option, not at their meaning: "deprecated = no" passes.
		if options["deprecated"] == "" {
			return fmt.Errorf("isa_l_rs_vand with %d parity fragments can lose data: the policy must be deprecated", p.Parity)
		}
		s.Warnings = append(s.Warnings, fmt.Sprintf("Storage policy %s uses an EC configuration known to harm data durability. "+
			"Any data in this policy should be migrated. See https://bugs.launchpad.net/swift/+bug/1639691 for more information.", p.Name))
	}
	// Compared one by one: the sum of two huge numbers could wrap.
	if p.Data > maxFragments || p.Parity > maxFragments || p.Data+p.Parity > maxFragments {
		return fmt.Errorf("%d data and %d parity fragments: together they must be at most %d", p.Data, p.Parity, maxFragments)
	}
	if !ecTypes[p.ECType](p.Data, p.Parity) {
		return fmt.Errorf("ec_type %s can not have %d data and %d parity fragments", p.ECType, p.Data, p.Parity)
	}
	return nil
}

// ecTypes are the types that PyECLib 1.6.0 knows, isa_l_rs_vand_inv of newer ones, and the
// numbers of data and parity fragments that liberasurecode 1.6.2 takes for each, beside the
// limit for all. Swift takes those of them whose library is installed; which of them imping
// can rebuild is for the codec to say.
var ecTypes = map[string]func(k, m int) bool{
	"liberasurecode_rs_vand": always,
	"isa_l_rs_vand":          always,
	"isa_l_rs_cauchy":        always,
	"isa_l_rs_vand_inv":      always,
	"jerasure_rs_vand":       always,
	"jerasure_rs_cauchy":     func(k, m int) bool { return k+m <= 16 }, // words of 4 bits
	"flat_xor_hd_3": func(k, m int) bool {
		return k == 3 && m == 3 || flatXOR(k, m, 15)
	},
	"flat_xor_hd_4": func(k, m int) bool { return flatXOR(k, m, 20) },
	"shss":          always,
	"libphazr":      always,
}

func always(k, m int) bool { return true }

// flatXOR says for which sizes liberasurecode has a flat XOR code: its tables end at max
// data fragments.
func flatXOR(k, m, max int) bool {
	return m == 5 && 5 <= k && k <= 10 || m == 6 && 6 <= k && k <= max
}
