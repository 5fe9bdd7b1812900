"""The policies of a test, for programs in other processes."""
from swift.common import utils
from swift.common.storage_policy import EC_POLICY, POLICIES

SWIFT_CONF = '/etc/swift/swift.conf'


def write_swift_conf():
    with open(SWIFT_CONF, 'w') as out:
        out.write('[swift-hash]\nswift_hash_path_prefix = %s\nswift_hash_path_suffix = %s\n' % (
            utils.HASH_PATH_PREFIX.decode('utf8'), utils.HASH_PATH_SUFFIX.decode('utf8')))
        for policy in POLICIES:
            out.write('[storage-policy:%d]\nname = %s\npolicy_type = %s\n' % (
                policy.idx, policy.name, policy.policy_type))
            if policy.is_default:
                out.write('default = yes\n')
            if policy.policy_type == EC_POLICY:
                out.write('ec_type = %s\nec_num_data_fragments = %d\nec_num_parity_fragments = %d\n'
                          'ec_object_segment_size = %d\n' % (
                              policy.ec_type, policy.ec_ndata, policy.ec_nparity, policy.ec_segment_size))
