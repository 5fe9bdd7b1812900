package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"imping/lab/oracle"
)

// askSwift reads each swift.conf for its salts and for its policies.
const askSwift = `
import base64, json, sys, warnings
warnings.simplefilter('ignore')
from swift.common import storage_policy, utils
import logging
logging.getLogger('swift.common.storage_policy').addHandler(logging.NullHandler())

def salts():
    utils.HASH_PATH_PREFIX = utils.HASH_PATH_SUFFIX = b''
    utils.validate_configuration()
    return {'HashPrefix': base64.b64encode(utils.HASH_PATH_PREFIX).decode(),
            'HashSuffix': base64.b64encode(utils.HASH_PATH_SUFFIX).decode()}

def policies():
    storage_policy.reload_storage_policies()
    answer = []
    for p in sorted(storage_policy.POLICIES):
        d = {'Index': p.idx, 'Name': p.name, 'Aliases': p.alias_list[1:], 'Type': p.policy_type,
             'Default': p.is_default, 'Deprecated': p.is_deprecated}
        if p.policy_type == 'erasure_coding':
            d.update({'ECType': p.ec_type, 'Data': p.ec_ndata, 'Parity': p.ec_nparity,
                      'SegmentSize': p.ec_segment_size, 'Duplication': p.ec_duplication_factor})
        answer.append(d)
    return {'Policies': answer}

def ask(call):
    try:
        return call()
    except (Exception, SystemExit) as e:
        return {'Error': '%s: %s' % (type(e).__name__, e)}

answers = []
for path in json.load(sys.stdin):
    utils.SWIFT_CONF_FILE = path
    answers.append({'Salts': ask(salts), 'Policies': ask(policies)})
json.dump(answers, sys.stdout)
`

type swiftAnswer struct {
	Salts struct {
		Error                  string
		HashPrefix, HashSuffix []byte
	}
	Policies struct {
		Error    string
		Policies []*Policy
	}
}

// compare gives every text to Swift and to Load and reports the differences. It returns
// how many of them Swift took.
func compare(t *testing.T, texts []string) (good int) {
	t.Helper()
	var paths []string
	for i, text := range texts {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	var answers []swiftAnswer
	oracle.Ask(t, askSwift, paths, &answers)
	for i, answer := range answers {
		got, err := Load(paths[i])
		refused := answer.Salts.Error + answer.Policies.Error
		if answer.Salts.Error == "" && strings.HasPrefix(answer.Policies.Error, "UnicodeDecodeError") {
			// Python 3 dies; the salts are right nevertheless.
			refused = ""
			answer.Policies.Policies = got.Policies
		}
		if refused == "" {
			good++
		}
		if (refused != "") != (err != nil) {
			t.Errorf("%q: Swift says %q, imping %v", texts[i], refused, err)
			continue
		}
		if err != nil {
			continue
		}
		want := &Swift{Policies: answer.Policies.Policies, HashPrefix: answer.Salts.HashPrefix, HashSuffix: answer.Salts.HashSuffix}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Swift{}, "Constraints", "Path", "Warnings")); diff != "" {
			t.Errorf("%q: Swift (-), imping (+):\n%s", texts[i], diff)
		}
	}
	return good
}

const salted = "[swift-hash]\nswift_hash_path_suffix = end\n"

func ec(index int, more string) string {
	return fmt.Sprintf("%s[storage-policy:0]\nname = gold\ndefault = yes\n[storage-policy:%d]\nname = ec\npolicy_type = erasure_coding\n%s", salted, index, more)
}

// rule 34
func TestSwiftConfIsReadAsSwiftReadsIt(t *testing.T) {
	const rs104 = "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 10\nec_num_parity_fragments = 4\n"
	good := []string{
		salted,
		"[swift-hash]\nswift_hash_path_prefix = begin\n",
		"[swift-hash]\nSwift_Hash_Path_Prefix = a%%b\nswift_hash_path_suffix = %(swift_hash_path_prefix)s\n",
		"[DEFAULT]\nswift_hash_path_suffix = from default\n[swift-hash]\n",
		"[swift-hash]\nswift_hash_path_suffix = caf\u00e9\n",
		"[swift-hash]\nswift_hash_path_suffix = voil\u00e0\n", // \xa0 is white space in Latin-1
		"[swift-hash]\nswift_hash_path_suffix = \xff\xfe\x00z\n",
		"[swift-hash]\nswift_hash_path_suffix = a\n b\n",
		salted + "[storage-policy:0]\nname = gold\n",
		salted + "[storage-policy:0]\nname = gold\naliases = yellow, orange,, gold\ndefault = yes\n[storage-policy:2]\nname = silver\ndeprecated = t\n",
		salted + "[storage-policy:2]\nname = silver\n[storage-policy: 0 ]\nname = gold\ndefault = TRUE\ndiskfile_module = egg:x#y\n",
		salted + "[storage-policy:0]\nname = policy-0\n",
		salted + "[storage-policy:1_0]\nname = a\ndefault=1\n[storage-policy:+0]\nname = b\npolicy_type = replication\n",
		ec(1, rs104),
		ec(7, rs104+"ec_object_segment_size = 65536\nec_duplication_factor = 2\naliases = a, b\n"),
		ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 4\nec_num_parity_fragments = 2\n"),
		ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 4\nec_num_parity_fragments = 5\ndeprecated = yes\n"),
		ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 4\nec_num_parity_fragments = 5\ndeprecated = no\n"),
		ec(1, "ec_type = flat_xor_hd_3\nec_num_data_fragments = 3\nec_num_parity_fragments = 3\n"),
	}
	bad := []string{
		"",
		"[swift-hash]\n",
		"[swift-hash]\nswift_hash_path_suffix =\nswift_hash_path_prefix =\n",
		"[swift-hash]\nswift_hash_path_suffix = 1%\n",
		"[swift-hash]\nswift_hash_path_suffix = %(x)s\n",
		"swift_hash_path_suffix = a\n",
		salted + salted,
		salted + "swift_hash_path_suffix = a\n",
		salted + "[storage-policy:0]\nname = a\n[storage-policy:0]\nname = a\n",
		salted + "[storage-policy:0]\n",
		salted + "[storage-policy:0]\nname =\n",
		salted + "[storage-policy:0]\nname = a b\n",
		salted + "[storage-policy:0]\nname = \u00e9\n",
		salted + "[storage-policy:0]\nname = a\naliases = A\n",
		salted + "[storage-policy:0]\nname = a\naliases = b, b\n",
		salted + "[storage-policy:0]\nname = a\naliases = b_\n",
		salted + "[storage-policy:0]\nname = a\ndefault = 1\ndeprecated = 1\n",
		salted + "[storage-policy:0]\nname = a\ndeprecated = 1\n",
		salted + "[storage-policy:0]\nname = a\nspeed = 1\n",
		salted + "[storage-policy:0]\nname = a\nec_type = isa_l_rs_vand\n",
		salted + "[storage-policy:0]\nname = a\npolicy_type = none\n",
		salted + "[storage-policy:0]\nname = 1%\n",
		salted + "[storage-policy:1]\nname = a\n",
		salted + "[storage-policy:1]\nname = Policy-0\n[storage-policy:0]\nname = a\ndefault = 1\n",
		salted + "[storage-policy:x]\nname = a\n",
		salted + "[storage-policy:]\nname = a\n",
		salted + "[storage-policy:-1]\nname = a\n",
		salted + "[storage-policy:0]\nname = a\n[storage-policy:1]\nname = b\n",
		salted + "[storage-policy:0]\nname = a\ndefault = 1\n[storage-policy:1]\nname = b\ndefault = 1\n",
		salted + "[storage-policy:0]\nname = a\ndefault = 1\n[storage-policy:1]\nname = A\n",
		salted + "[storage-policy:0]\nname = a\ndefault = 1\n[storage-policy:1]\nname = b\naliases = c, A\n",
		salted + "[storage-policy:0]\nname = a\ndefault = 1\n[storage-policy:00]\nname = b\n",
		salted + "[DEFAULT]\nuser = swift\n[storage-policy:0]\nname = a\n",
		ec(1, ""),
		ec(1, "ec_type = rs\nec_num_data_fragments = 10\nec_num_parity_fragments = 4\n"),
		ec(1, "ec_type = liberasurecode_rs_vand\nec_num_parity_fragments = 4\n"),
		ec(1, "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 10\n"),
		ec(1, "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 0\nec_num_parity_fragments = 4\n"),
		ec(1, "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 10\nec_num_parity_fragments = -4\n"),
		ec(1, "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 29\nec_num_parity_fragments = 4\n"),
		ec(1, "ec_type = liberasurecode_rs_vand\nec_num_data_fragments = 9223372036854775807\nec_num_parity_fragments = 4\n"),
		ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 4\nec_num_parity_fragments = 5\n"),
		ec(1, "ec_type = isa_l_rs_vand\nec_num_data_fragments = 4\nec_num_parity_fragments = 5\ndeprecated =\n"),
		ec(1, "ec_type = flat_xor_hd_3\nec_num_data_fragments = 4\nec_num_parity_fragments = 2\n"),
		ec(1, rs104+"ec_object_segment_size = 0\n"),
		ec(1, rs104+"ec_object_segment_size = 1MiB\n"),
		ec(1, rs104+"ec_object_segment_size =\n"),
		ec(1, rs104+"ec_duplication_factor = 0\n"),
		ec(1, rs104+"ec_duplication_factor = 1.5\n"),
	}
	if n := compare(t, good); n != len(good) {
		t.Errorf("Swift takes %d of %d that the table calls good", n, len(good))
	}
	if n := compare(t, bad); n != 0 {
		t.Errorf("Swift takes %d of those that the table calls bad", n)
	}
}

// TestSizesOfCodesAreTakenOrRefusedAsPyECLibDoes asks for the small sizes, where the flat
// XOR codes have holes, and around the limits on the sum, for all types that Debian has
// the library of: shss and libphazr are not among them.
func TestSizesOfCodesAreTakenOrRefusedAsPyECLibDoes(t *testing.T) {
	const ask = `
import json, sys
from pyeclib.ec_iface import ECDriver, ECDriverError, ALL_EC_TYPES
def can(t, k, m):
    try:
        ECDriver(k=k, m=m, ec_type=t)
        return True
    except ECDriverError:
        return False
sizes = json.load(sys.stdin)
json.dump({t: [can(t, k, m) for k, m in sizes] for t in ALL_EC_TYPES}, sys.stdout)
`
	var sizes [][2]int
	for k := 1; k <= 33; k++ {
		for m := 1; m <= 33; m++ {
			sum := k + m
			if k <= 22 && 3 <= m && m <= 7 || 15 <= sum && sum <= 17 || 32 <= sum && sum <= 33 {
				sizes = append(sizes, [2]int{k, m})
			}
		}
	}
	var answer map[string][]bool
	oracle.Ask(t, ask, sizes, &answer)
	for name, can := range answer {
		if _, ok := ecTypes[name]; !ok {
			t.Errorf("PyECLib knows %s, imping does not", name)
		}
		if name == "shss" || name == "libphazr" {
			continue
		}
		for i, size := range sizes {
			options := map[string]string{"ec_type": name, "ec_num_data_fragments": fmt.Sprint(size[0]), "ec_num_parity_fragments": fmt.Sprint(size[1]), "deprecated": "yes"}
			err := new(Swift).parseEC(new(Policy), options)
			if (err == nil) != can[i] {
				t.Errorf("%s %d+%d: PyECLib says %v, imping %v", name, size[0], size[1], can[i], err)
			}
		}
	}
}

// rule 34
func TestRandomPoliciesAreReadAsSwiftReadsThem(t *testing.T) {
	pick := func(t *rapid.T, label string, choices ...string) string {
		return rapid.SampledFrom(choices).Draw(t, label)
	}
	section := rapid.Custom(func(t *rapid.T) string {
		s := "name = " + pick(t, "name", "a", "b", "c", "d", "A", "Policy-0", "x-1", "") + "\n"
		s += pick(t, "aliases", "", "", "", "aliases = e, f\n", "aliases = a\n", "aliases = g, G\n")
		s += pick(t, "default", "", "", "default = yes\n", "default = 0\n")
		s += pick(t, "deprecated", "", "", "", "deprecated = yes\n", "deprecated = no\n")
		if rapid.Bool().Draw(t, "ec") {
			s += "policy_type = erasure_coding\n"
			s += "ec_type = " + pick(t, "type", "isa_l_rs_vand", "liberasurecode_rs_vand", "jerasure_rs_cauchy", "flat_xor_hd_4") + "\n"
			s += "ec_num_data_fragments = " + pick(t, "data", "4", "6", "10", "10", "28", "0") + "\n"
			s += "ec_num_parity_fragments = " + pick(t, "parity", "2", "4", "5", "5", "6", "x") + "\n"
			s += pick(t, "segment", "", "", "ec_object_segment_size = 4096\n", "ec_object_segment_size = -1\n")
			s += pick(t, "factor", "", "", "ec_duplication_factor = 2\n", "ec_duplication_factor = 0\n")
		}
		return s
	})
	file := rapid.Custom(func(t *rapid.T) string {
		indexes := rapid.SliceOfNDistinct(rapid.IntRange(0, 3), 0, 3, rapid.ID).Draw(t, "indexes")
		if !slices.Contains(indexes, 0) {
			indexes = append(indexes, 0)
		}
		s := salted
		for _, index := range indexes {
			s += fmt.Sprintf("[storage-policy:%d]\n%s", index, section.Draw(t, "section"))
		}
		return s
	})
	var texts []string
	for seed := range 2000 {
		texts = append(texts, file.Example(seed))
	}
	good := compare(t, texts)
	t.Logf("Swift takes %d of %d", good, len(texts))
	if good < 50 {
		t.Error("too few were good")
	}
}
